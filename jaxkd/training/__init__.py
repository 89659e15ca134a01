"""From a configuration to a trained run: build, needed runs, program, results."""
