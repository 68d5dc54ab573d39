# edit-robust. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ARGS   ?=
# Tests run in so many processes, each with one thread; a file's tests stay in one.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help run test test-fast check bench assets figures leaderboard docs clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,docs,browser,joblib,submitit,ray,optuna]"
	touch $@

run: $(READY) ## Edit the built-in model 100 times in a row and report what broke; ARGS="editor=memit" for another run
	$(BIN)/edit-robust run $(ARGS)

test: $(READY) ## Run all tests (about eight minutes on two cores); ARGS="-k rome" for some, ARGS=--thorough for every further case
	$(PYTEST) $(ARGS)

test-fast: $(READY) ## Run the tests that take no longer than a few seconds each (one or two minutes on two cores)
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

check: $(READY) ## Formatting, lint, types, and every config bound to its constructor
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/check_configs.py

bench: $(READY) ## Measure how fast it is, against what one would run otherwise; fails where results differ or it is too slow
	$(BIN)/python scripts/bench.py $(ARGS)
	$(BIN)/python scripts/bench_corruptions.py
	$(BIN)/python scripts/bench_images.py
	$(BIN)/python scripts/bench_solves.py
	$(BIN)/python scripts/bench_single.py
	$(BIN)/python scripts/bench_sweeps.py
	$(BIN)/python scripts/bench_retention.py --edits 40
	$(BIN)/python scripts/bench_downstream.py
	$(BIN)/python scripts/bench_many.py

assets: $(READY) ## Make the built-in worlds' models again (about two hours)
	for seed in 0 1; do \
		make() { $(BIN)/python scripts/make_fact_world.py --seed $$seed "$$@"; }; on="--stage 0 --sink 16"; dir=build/fact-gpt-$$seed; \
		make --out $$dir-1 && make --start $$dir-1 $$on --drill 150 --steps 900 --lr 1e-3 --out $$dir-2 && \
		make --start $$dir-2 $$on --steps 900 --lr 1e-3 --out $$dir-3 && \
		make --start $$dir-3 $$on --steps 1600 --lr 8e-4 --out edit_robust/assets/fact-gpt$$([ $$seed = 0 ] || echo -b) || exit 1; \
	done
	for name in scene-cnn scene-resnet scene-vit; do $(BIN)/python scripts/make_scene_world.py net $$name || exit 1; done
	$(BIN)/python scripts/make_scene_world.py filter
	for name in scene-cnn scene-resnet scene-vit; do $(BIN)/python scripts/make_scene_world.py measure $$name || exit 1; done
	$(BIN)/python scripts/make_scene_world.py baseline
	$(BIN)/python scripts/make_scene_world.py sheet
	for name in scene-clip scene-clip-b; do \
		$(BIN)/python scripts/make_scene_clip.py train $$name && $(BIN)/python scripts/make_scene_clip.py measure $$name || exit 1; \
	done

figures: $(READY) ## List the documentation's figures with the commands behind them; ARGS="scaling" makes one (hours)
	$(BIN)/python scripts/make_doc_figures.py $(ARGS)

leaderboard: $(READY) ## Run all editors on both built-in worlds and write docs/leaderboard.md (about half an hour of one core)
	for world in facts scenes; do \
		$(BIN)/edit-robust run experiment=leaderboard-$$world tracker=none figures=false paths.outputs=outputs/leaderboard || exit 1; \
	done
	$(BIN)/python scripts/make_leaderboard.py $(ARGS)

docs: $(READY) ## Build the documentation's site in build/site; nothing is fetched, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo build/site/index.html

clean: ## Remove caches and builds; runs and the environment stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache *.egg-info
	find edit_robust scripts tests -name __pycache__ -type d -exec rm -rf {} +
