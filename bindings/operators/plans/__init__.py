"""Plans: with which kernel, constants, grid and slices a pass of a convolution, or of a fully
connected layer, is launched, and how batch norm cuts its rows.

They depend on shapes, dtypes, precision, tables of measured choices and PYGAN_WGMMA (wgmma.py)
alone, never on load, and are made without a device.

- plan.py: what a plan is; passes.py: what a pass is, and the matrix products in it
- model.py: the model of a large GPU that predicts times, with which most choices are made
- one module for each group of kernels, with its tiles, its use of the model, and its plans:
  general.py, fully_connected.py, pipelined.py, few_channels.py, tensor_core.py, image_weight.py,
  wgmma.py; normalised.py for the variants that normalise what they read
- tuning.py, tuning_table.py: measured choices, which go before the model's
- batch_norm.py: batch norm's blocks
- choice.py: which of them a call takes, and the workspace that it needs: what launchers ask
"""
