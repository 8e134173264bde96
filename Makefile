# make demo: restore the two faces of data/demo on a CPU.   make test: the tests.   make test-all: the slow ones too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all clean

demo: $(VENV)/installed
	rm -rf results/demo
	$(BIN)/python dmilo.py     --task inpainting       -l results/demo/dmilo     --run demo --batch-size 2 --outer 3 --inner 100 --cuda -1
	$(BIN)/python dmilo-pgd.py --task inpainting       -l results/demo/dmilo-pgd --run demo --batch-size 2 --outer 3 --inner 100 --cuda -1
	@echo; echo "Look at (origin | measurement | final):"; ls -1 results/demo/*/demo/*/demo/grid.png

test: $(VENV)/installed
	$(BIN)/python -m pytest tests -q -m "not slow"

test-all: $(VENV)/installed
	$(BIN)/python -m pytest tests -q

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf $(VENV) results
