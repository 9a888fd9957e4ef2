# make run    train, judge, push and try a classifier of handwritten digits; the data set is embedded
# make demo   four nights in two minutes: a first model, a refused one, a better one, a rollback
# make test   every test that is not marked slow
# make slow   the tests that take minutes
# make fuzz   malformed requests against a live server, from a new seed: make fuzz seconds=600
# make lint   ruff, mypy, import-linter
# make audit  the pins against the list of known vulnerabilities; needs no network
# make docs   the documentation's site, in site/; a broken link or anchor is an error
# make bench  the three shortest benchmarks
# Every target first makes or updates .venv.
.PHONY: setup run demo test slow fuzz lint audit docs format bench clean

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

seconds ?= 300
fuzz: setup
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m tests.serving.oracle --seconds $(seconds)
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m tests.serving.oracle.coverage $(seconds)

lint: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

audit: setup
	.venv/bin/python .ci/audit.py

docs: setup
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: setup
	.venv/bin/python -m benchmarks.fixed_cost
	.venv/bin/python -m benchmarks.against_plain_keras
	.venv/bin/python -m benchmarks.rerun

clean:
	rm -rf .venv site
