# make demo: restore the two faces of data/demo and a photograph on a CPU.   make test: the tests.   make test-all: the slow ones too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all clean

demo: $(VENV)/installed
	rm -rf results/make-demo
	set -e; for method in dmilo dmilo-pgd; do for task in inpainting super_resolution gaussian_deblur motion_deblur; do \
	    $(BIN)/python $$method.py --task $$task --preset fast -l results/make-demo/$$method --name demo --cuda -1; done; done
	$(BIN)/python dmilo.py --measured data/photo/scratched.png --mask data/photo/scratched_mask.png --preset fast \
	    -l results/make-demo/photo --name demo --cuda -1
	@echo; echo "Look at (origin | measurement | final):"; ls -1 results/make-demo/*/demo/*/demo/grid.png

test: $(VENV)/installed
	$(BIN)/python -m pytest tests -q -m "not slow"

test-all: $(VENV)/installed
	$(BIN)/python -m pytest tests -q

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf $(VENV)
