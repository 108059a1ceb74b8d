"""Run a model over labeled data and take the latent features of its layers, into a store or into memory.

extracting.py is `extract`, modules.py its way for any nn.Module and loader, with borrowing.py, which leaves a module as it was.
models/layers.py finds the layers and taps them, loading.py reads the inputs, running.py calls the model, schedule.py brings
the rows into the store in their order, stopping.py ends a run where nothing is lost. recording.py says what made the rows,
resuming.py goes on only with the same, outcome.py holds what comes back.
"""

from embedscope.extraction.extracting import extract, list_layers
from embedscope.extraction.options import check_options
from embedscope.extraction.outcome import Extraction
from embedscope.models.listing import LayerInfo

__all__ = ["Extraction", "LayerInfo", "check_options", "extract", "list_layers"]
