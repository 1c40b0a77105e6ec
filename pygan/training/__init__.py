"""Training of the lesson's generative adversarial network.

``gan`` is the step itself, ``run`` a whole run with pictures, log and checkpoints, ``folder`` where
these lie, ``sampling`` the generator's use afterwards.
"""
