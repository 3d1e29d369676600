"""Losses for regression, classification and sequences; the YOLO losses are in `yolo_loss`."""

from __future__ import annotations

import torch

__all__ = ["mean_squared_error", "sequence_cross_entropy", "softmax_cross_entropy"]


def mean_squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Computes the mean squared error (Gauss 1809).

    ::

        L = 1/n * sum_i (y_i - t_i)^2            dL/dy_i = 2/n * (y_i - t_i)

    Args:
        outputs: any shape.
        targets: same shape.

    Returns:
        A scalar, shape ``()``.
    """
    return (outputs - targets).square().mean()


def softmax_cross_entropy(logits: torch.Tensor, classes: torch.Tensor, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """Computes the softmax cross-entropy (Goodfellow et al. 2016, section 6.2.2.3).

    ::

        p = softmax(z)    L = 1/n * sum_i sum_c -q_ic * log p_ic    dL/dz_ic = 1/n * (p_ic - q_ic)

    where ``q`` is 1 for the true class and 0 for the others. Label smoothing by ``e`` changes these to ``1 - e + e/C``
    and ``e/C`` (Szegedy et al. 2016, arXiv:1512.00567, section 7), so that the optimal logits are finite.

    Args:
        logits: shape ``(N, C)``.
        classes: int64, 0 to ``C - 1``, shape ``(N,)``.
        label_smoothing: ``e``, 0 to 1.

    Returns:
        A scalar, shape ``()``; the mean over ``N``, in nats.
    """
    return _cross_entropy(logits, classes, label_smoothing).mean()


def sequence_cross_entropy(
    logits: torch.Tensor, tokens: torch.Tensor, *, padding: int = 0, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Computes `softmax_cross_entropy` over all tokens except padding.

    The mean is over tokens, so a long sequence has more weight than a short one, as in Vaswani et al. 2017
    (arXiv:1706.03762, section 5.4, with a label smoothing of 0.1).

    Args:
        logits: for the next token at each position, shape ``(N, T, V)``.
        tokens: the next tokens; int64, shape ``(N, T)``.
        padding: the padding token, which the loss ignores.
        label_smoothing: as for `softmax_cross_entropy`.

    Returns:
        A scalar, shape ``()``; 0 if all tokens are padding.
    """
    counted = tokens != padding
    losses = _cross_entropy(logits.flatten(0, 1), tokens.flatten(), label_smoothing)
    return (losses * counted.flatten()).sum() / counted.sum().clamp(min=1)


def _cross_entropy(logits: torch.Tensor, classes: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Computes ``-sum_c q_c * log p_c`` of each row."""
    # log p = z - log(sum exp z): logsumexp subtracts the largest logit, so nothing overflows.
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
    losses = -log_p.gather(1, classes[:, None]).squeeze(1)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * log_p.mean(dim=1)
    return losses
