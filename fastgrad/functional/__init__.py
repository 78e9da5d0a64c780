"""The ops, each with the name, signature, defaults and semantics of torch's function of the same name."""

from fastgrad.functional.activations import *  # noqa: F403
from fastgrad.functional.arithmetic import *  # noqa: F403
from fastgrad.functional.bce import *  # noqa: F403
from fastgrad.functional.cross_entropy import *  # noqa: F403
from fastgrad.functional.matmul import *  # noqa: F403
from fastgrad.functional.reductions import *  # noqa: F403
from fastgrad.functional.regression_losses import *  # noqa: F403
from fastgrad.functional.softmax import *  # noqa: F403
