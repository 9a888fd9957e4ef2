"""How the gate judges a model: settings, predictions, metrics, intervals and tests, TFMA's config, the judgement."""
