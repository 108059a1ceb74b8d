"""Pictures of embeddings: one file per kind.

A kind is a function from what was given to its numbers, one frozen record an input, declared together with the function that
draws them: `plotting/foo.py` holds `foo(inputs, *, options) -> list[record]` under `@kind("title", takes=..., draw=draw_foo)`,
and `draw_foo(sheet, records)`. Tests hold the numbers to an oracle, and whatever else shows them takes the same records.
"""

from embedscope.plotting.declaring import KindDeclaration, declaration, kind
from embedscope.plotting.drawing import FORMATS, MAX_POINTS, STANDARD, plot, worst_classes
from embedscope.plotting.layouts import Layout

__all__ = ["FORMATS", "MAX_POINTS", "STANDARD", "KindDeclaration", "Layout", "declaration", "kind", "plot", "worst_classes"]
