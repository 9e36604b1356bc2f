# Aliases; dev.py does the work.
PYTHON ?= python3.11

.PHONY: demo test env bench
demo test env bench:
	$(PYTHON) dev.py $@ $(ARGS)
