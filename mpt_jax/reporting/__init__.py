"""What a run was worth: records, tables, plots and the written report. Imports no JAX and no TensorFlow.

Nothing is imported here, so that reading a results file does not pay for matplotlib.
"""
