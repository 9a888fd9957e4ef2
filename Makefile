# make run    the main job on an embedded data set: digits, trained, gated, pushed, classified
# make demo   a nightly life in small: refused, pushed, taken up by a server under requests, rolled back
# make test   every test that is not marked slow
# make lint   ruff, mypy, import-linter
# Each target sets up .venv first, when it is not there or out of date.
.PHONY: setup run demo test slow lint format bench clean

setup:
	@.ci/setup

run: setup
	@.venv/bin/python -m recipes.digits

demo: setup
	@.venv/bin/python -m recipes.demo

test: setup
	.venv/bin/python -m pytest -n 2 --dist loadfile

slow: setup
	.venv/bin/python -m pytest -m slow

lint: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: setup
	.venv/bin/python -m benchmarks.fixed_cost
	.venv/bin/python -m benchmarks.against_plain_keras
	.venv/bin/python -m benchmarks.rerun

clean:
	rm -rf .venv
