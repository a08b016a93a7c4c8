"""A penalty that grows over the last tokens before the limit of a response (DAPO; arXiv 2503.14476, equation 13)."""


def overlong(tokens: int, limit: int, buffer: int, penalty: float = 1.0) -> float:
    """0 up to `limit - buffer` tokens, then falling evenly to -penalty at `limit`.

    Args:
        tokens: of the response.
        limit: tokens at which responses are cut (L_max).
        buffer: tokens before it over which the penalty grows (L_cache).

    Example:
        >>> [overlong(tokens, limit=100, buffer=20) for tokens in (80, 90, 100)]
        [0.0, -0.5, -1.0]
    """
    beyond = tokens - (limit - buffer)
    return -min(beyond / buffer, 1.0) * penalty if beyond > 0 else 0.0
