"""METEOR 1.5 for English, without Java; its tables come from pycocoevalcap."""

from spdf_keras.metrics.meteor.scoring import Meteor, corpus_meteor

__all__ = ["Meteor", "corpus_meteor"]
