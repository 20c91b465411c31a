"""Results: scores, tables beside the published numbers, curves, panels, pages."""
import logging

logging.getLogger('matplotlib').setLevel(logging.ERROR)  # its warnings where no home folder can be written help nobody
