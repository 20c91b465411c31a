"""Results: scores, tables with published results, curves, comparison figures, HTML pages."""
import logging

logging.getLogger('matplotlib').setLevel(logging.ERROR)  # no warnings about a home folder that is not writable
