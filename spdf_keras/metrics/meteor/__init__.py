"""METEOR 1.5 for English, with the tables of pycocoevalcap.

It runs without Java, whereas pycocoevalcap's `Meteor` starts a Java program.
"""

from spdf_keras.metrics.meteor.scoring import Meteor, corpus_meteor, score_of_sums

__all__ = ["Meteor", "corpus_meteor", "score_of_sums"]
