"""One evaluation for everything that measures: `score`, the held-out rows of `finetune`, and the page and pictures of `plot`.

evaluating.py decides what fits into memory, shares work between metrics and collects what they return; intervals.py adds how
sure the values are; scoring.py opens sources and evaluates each; scores.py holds the records that come back, thresholds.py
holds them to limits. samples.py finds the rows that need attention, flagging.py says why, issues.py records them.
"""

from embedscope.evaluation.evaluating import evaluate, per_sample_metrics
from embedscope.evaluation.issues import Issues
from embedscope.evaluation.samples import find_issues
from embedscope.evaluation.scores import Measurement, Samples, Scores, ScoreTable
from embedscope.evaluation.scoring import score

__all__ = ["Issues", "Measurement", "Samples", "ScoreTable", "Scores", "evaluate", "find_issues", "per_sample_metrics", "score"]
