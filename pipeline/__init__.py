"""What runs, in what order, and where: the command line, the config, the DAG and its runners."""
