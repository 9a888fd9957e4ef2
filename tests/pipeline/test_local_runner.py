"""What the local runner leaves out, since each run would pay for it. `tests/test_end_to_end.py` has the runs."""

import subprocess
import sys


def test_no_beam_stage_packs_tfx_for_remote_workers() -> None:
    from tfx.utils import dependency_utils

    from graftline.pipeline import local_runner

    given = [*local_runner.BEAM_OPTIONS]
    assert dependency_utils.make_beam_dependency_flags(given) == given


def test_no_client_of_google_cloud_ai_platform_is_imported() -> None:
    """`tfx.v1` imports it: 1,500 modules, two seconds of each start, for nothing that is run on this machine."""
    code = (
        "import sys, graftline.pipeline.dag, graftline.trainer.run_fn; print('google.cloud.aiplatform' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
