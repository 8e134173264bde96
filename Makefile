# make demo      restore the two faces of data/demo and a photograph on a CPU
# make test      the fast tests
# make test-all  all tests
# make lint      ruff: format and rules
# make gpu       all that needs a GPU; writes results/gpu.md
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint gpu clean

demo: $(VENV)/installed
	rm -rf results/make-demo
	@echo "Part 1 of 9: a scratched photograph"
	$(BIN)/python restore.py data/photo/scratched.png --mask data/photo/scratched_mask.png \
	    -l results/make-demo/photo --name demo
	@set -e; part=1; for method in dmilo dmilo-pgd; do \
	    for task in inpainting super_resolution gaussian_deblur motion_deblur; do \
	        part=$$((part + 1)); echo "Part $$part of 9: two faces, $$method, $$task"; \
	        $(BIN)/python $$method.py --task $$task --preset fast -l results/make-demo/$$method \
	            --name demo --cuda -1; done; done
	@$(BIN)/python -m report results/make-demo
	@echo "Open results/make-demo/report.html in a browser; the photograph alone:" \
	    "results/make-demo/photo/demo/report.html"

# Two processes with one thread each are faster than one process with two threads.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -q -rs -n 2 --dist worksteal

test: $(VENV)/installed
	$(TESTS) -m "not slow"

test-all: $(VENV)/installed
	$(TESTS)

lint: $(VENV)/installed
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .

gpu: $(VENV)/installed
	@$(BIN)/python benchmark.py gpu

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf $(VENV)
