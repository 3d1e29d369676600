"""Losses of regression, classification and sequences, each written as its formula; YOLO's stand in `yolo_loss`."""

from __future__ import annotations

import torch

__all__ = ["mean_squared_error", "sequence_cross_entropy", "softmax_cross_entropy"]


def mean_squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean of squared differences, what least squares minimizes (Gauss 1809).

    ::

        L = 1/n * sum_i (y_i - t_i)^2            dL/dy_i = 2/n * (y_i - t_i)

    Args:
        outputs: any shape.
        targets: of the same shape.

    Returns:
        A number, of shape ``()``.
    """
    return (outputs - targets).square().mean()


def softmax_cross_entropy(logits: torch.Tensor, classes: torch.Tensor, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """How surprised the softmax of the logits is by the true classes (Goodfellow et al. 2016, section 6.2.2.3).

    ::

        p = softmax(z)    L = 1/n * sum_i sum_c -q_ic * log p_ic    dL/dz_ic = 1/n * (p_ic - q_ic)

    where ``q`` is 1 at the true class and 0 elsewhere; smoothed by ``e`` it is ``1 - e + e/C`` there and ``e/C``
    elsewhere (Szegedy et al. 2016, arXiv:1512.00567, section 7), so that no logit has to become infinite.

    Args:
        logits: shape ``(N, C)``.
        classes: int64, 0 to ``C - 1``, shape ``(N,)``.
        label_smoothing: ``e``, 0 to 1.

    Returns:
        A number, of shape ``()``; the mean over ``N``, in nats.
    """
    return _surprise(logits, classes, label_smoothing).mean()


def sequence_cross_entropy(
    logits: torch.Tensor, tokens: torch.Tensor, *, padding: int = 0, label_smoothing: float = 0.0
) -> torch.Tensor:
    """`softmax_cross_entropy` at every place of every sequence where a token stands.

    The mean is over tokens, so that a long sequence counts for more than a short one, as in Vaswani et al. 2017
    (arXiv:1706.03762, section 5.4, which smooths labels by 0.1).

    Args:
        logits: for each place the next token's, shape ``(N, T, V)``.
        tokens: the next tokens; int64, shape ``(N, T)``.
        padding: the token that fills the rest of short sequences and is not learned.
        label_smoothing: as for `softmax_cross_entropy`.

    Returns:
        A number, of shape ``()``; 0 where there is nothing but padding.
    """
    counted = tokens != padding
    surprise = _surprise(logits.flatten(0, 1), tokens.flatten(), label_smoothing)
    return (surprise * counted.flatten()).sum() / counted.sum().clamp(min=1)


def _surprise(logits: torch.Tensor, classes: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """``-sum_c q_c * log p_c`` of each row."""
    # log p = z - log(sum exp z): the sum is taken relative to the largest logit, so that nothing overflows.
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
    surprise = -log_p.gather(1, classes[:, None]).squeeze(1)
    if label_smoothing:
        surprise = (1 - label_smoothing) * surprise - label_smoothing * log_p.mean(dim=1)
    return surprise
