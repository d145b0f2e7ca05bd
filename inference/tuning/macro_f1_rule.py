"""The class to answer where macro F1 counts: not the likeliest one.

Macro F1 is no mean over images: it is a function of the confusion matrix, and the best classifier for such a measure
answers as for a matrix of gains, the measure's gradient at that classifier's own confusion matrix (Narasimhan et al.
2015). With R_k the share of images of class k, Q_k the share that is answered k, and F_k its F1,

    d macro F1 / d (an image of class i is answered k)  ~  (2 [i = k] - F_k) / (R_k + Q_k),

so an image with probabilities p is answered

    argmax_k (2 p_k - F_k) / (R_k + Q_k):

a class is worth answering from a probability of half its F1 on (for two classes: Lipton et al. 2014), and the more the
rarer it is. R, Q and F are those of the rule itself, so they are iterated to a fixed point. They are expectations under
the probabilities, not counts of labels: nothing is fitted but how well the probabilities are calibrated, which is why
36 numbers can be learned from few persons. (Coordinate ascent on counted macro F1 was tried: it lost with 60 and with
300 persons, with which this rule gains.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from base.batch import UNKNOWN

MOST_ITERATIONS = 30
DAMPING = 0.5


@dataclass(frozen=True)
class Rule:
    """Answers argmax_k scale_k (p_k - threshold_k); scale, threshold: (K,)"""

    scale: np.ndarray
    threshold: np.ndarray

    @classmethod
    def for_macro_f1(cls, probabilities: np.ndarray) -> Rule:
        """The rule whose expected macro F1 is highest among the iterates, the arg max being the first.

        probabilities: (N, K), calibrated"""
        num_images, num_classes = probabilities.shape
        share = probabilities.mean(axis=0)
        rule = cls(np.ones(num_classes), np.zeros(num_classes))
        best, best_score = rule, -1.0
        answered = f1 = None
        for _ in range(MOST_ITERATIONS):
            choice = rule.decide(probabilities)
            chosen = probabilities[np.arange(num_images), choice]
            own_answered = np.bincount(choice, minlength=num_classes) / num_images
            own_right = np.bincount(choice, weights=chosen, minlength=num_classes) / num_images
            own_f1 = 2 * own_right / np.maximum(share + own_answered, 1e-12)
            if (score := float(own_f1.mean())) > best_score + 1e-12:
                best, best_score = rule, score
            if answered is None or f1 is None:
                answered, f1 = own_answered, own_f1
            else:
                moved = max(np.abs(own_answered - answered).max(), np.abs(own_f1 - f1).max())
                if moved < 1e-3:
                    break
                answered = answered + DAMPING * (own_answered - answered)
                f1 = f1 + DAMPING * (own_f1 - f1)
            rule = cls(1 / np.maximum(share + answered, 1e-9), f1 / 2)
        return best

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """(N, K) -> (N,)"""
        return ((probabilities - self.threshold) * self.scale).argmax(axis=1)


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Over the classes that are true or predicted; truth -1 = unknown."""
    known = truth != UNKNOWN
    truth, predicted = truth[known], predicted[known]
    right = np.bincount(truth[truth == predicted])
    size = max(truth.max(initial=0), predicted.max(initial=0)) + 1
    total = np.bincount(truth, minlength=size) + np.bincount(predicted, minlength=size)
    return float((2 * np.pad(right, (0, size - len(right)))[total > 0] / total[total > 0]).mean())
