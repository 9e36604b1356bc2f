# Aliases; dev.py does the work.
PYTHON ?= python3.11

.PHONY: demo test env bench docs audit
demo test env bench docs audit:
	$(PYTHON) dev.py $@ $(ARGS)
