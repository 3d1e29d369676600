"""The source of the attention kernels, in Triton; imported only by ``tools/build_kernels`` and tests.

EdgeKit is installed without Triton: `device.py` launches the binaries in ``compiled/``.

Attention is ``softmax(scale * Q K^T + mask) V`` for arrays of shape (batch, heads, length, head size) whose last
dimension is contiguous. The softmax is computed online (Milakov and Gimelshein, arXiv 1805.02867) over blocks of keys,
so the matrix of logits is never stored (Dao et al., arXiv 2205.14135). Products accumulate in FP32. A row that sees no
key gives zeros.

Dimensions of tiles are powers of two in Triton. A head size is therefore the sum of two of them, such as 64 + 16 for
80, which computes 80 columns instead of 128; the second one is 0 for 32, 64 and 128.

If causal, row ``i`` of the queries sees the keys before ``min(key length, i + causal_offset + 1)``, else those before
the key length. This needs no variant of its own: only the last blocks of a row compare indices.

Grids have one dimension, since the others are limited to 65,535 blocks, which windows times heads may exceed.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _load(base, rows, stride, columns, end, CHECKED: tl.constexpr):
    """Loads rows of a matrix; if CHECKED, rows from ``end`` on are zeros."""
    pointers = base + rows[:, None] * stride + columns[None, :]
    if CHECKED:
        return tl.load(pointers, mask=(rows < end)[:, None], other=0)
    return tl.load(pointers)


@triton.jit
def _load_transposed(base, rows, stride, columns, end, CHECKED: tl.constexpr):
    """Loads rows of a matrix as columns; see `_load`."""
    pointers = base + rows[None, :] * stride + columns[:, None]
    if CHECKED:
        return tl.load(pointers, mask=(rows < end)[None, :], other=0)
    return tl.load(pointers)


@triton.jit
def _accumulate(
    state_a, state_b, total, maximum,
    query_a, query_b, scale,
    keys, keys_row, key_scales,
    values, values_row,
    mask, mask_rows,
    begin, end, limit,
    KEY_BLOCK: tl.constexpr, SCALE_BLOCK: tl.constexpr,
    A: tl.constexpr, QUERY_B: tl.constexpr, VALUE_B: tl.constexpr,
    CHECKED: tl.constexpr, HAS_MASK: tl.constexpr, INT8: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Adds the keys from ``begin`` to ``end`` to the state of the online softmax.

    If CHECKED, a row sees only the keys before its ``limit``; else all rows see all of them, and their number is a
    multiple of KEY_BLOCK.
    """
    columns = tl.arange(0, A)
    for start in tl.range(begin, end, KEY_BLOCK, num_stages=STAGES):
        index = start + tl.arange(0, KEY_BLOCK)
        key = _load_transposed(keys, index, keys_row, columns, end, CHECKED)
        if INT8:
            products = tl.dot(query_a, key, out_dtype=tl.int32)
        else:
            products = tl.dot(query_a, key)
        if QUERY_B > 0:
            key_b = _load_transposed(keys + A, index, keys_row, tl.arange(0, QUERY_B), end, CHECKED)
            if INT8:
                products = tl.dot(query_b, key_b, products, out_dtype=tl.int32)
            else:
                products = tl.dot(query_b, key_b, products)
        # Logits before the factor, which is positive: the subtraction of the maximum is fused with it.
        logits = products.to(tl.float32)
        factor = scale
        if INT8:
            factor = scale * tl.load(key_scales + start // SCALE_BLOCK)
        if HAS_MASK:
            logits *= factor[:, None]
            factor = tl.full(factor.shape, 1.0, tl.float32)
            # Indices in range instead of predicates, which would take more registers than there are.
            column = tl.minimum(index, end - 1) if CHECKED else index
            logits += tl.load(mask + (mask_rows[:, None] + column[None, :])).to(tl.float32) * LOG2_E
        if CHECKED:
            logits = tl.where(index[None, :] < limit[:, None], logits, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(logits, 1) * factor)
        if CHECKED or HAS_MASK:
            # All logits of a row may be -inf, and -inf minus -inf is not a number.
            base = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        else:
            base = new_maximum
        weights = tl.math.exp2(logits * factor[:, None] - base[:, None])
        decay = tl.math.exp2(maximum - base)
        total = total * decay + tl.sum(weights, 1)
        maximum = new_maximum
        value = _load(values, index, values_row, columns, end, CHECKED)
        weights = weights.to(value.dtype)
        state_a = tl.dot(weights, value, state_a * decay[:, None])
        if VALUE_B > 0:
            value_b = _load(values + A, index, values_row, tl.arange(0, VALUE_B), end, CHECKED)
            state_b = tl.dot(weights, value_b, state_b * decay[:, None])
    return state_a, state_b, total, maximum


@triton.jit
def forward(
    queries, keys, values, out, query_scales, key_scales, lengths, mask,
    scale, heads, group, query_length, key_length, has_lengths, causal, causal_offset,
    queries_batch, queries_head, queries_row,
    keys_batch, keys_head, keys_row,
    values_batch, values_head, values_row,
    out_batch, out_head, out_row,
    mask_batch, mask_head, mask_row,
    QUERY_BLOCK: tl.constexpr, KEY_BLOCK: tl.constexpr, SCALE_BLOCK: tl.constexpr,
    A: tl.constexpr, QUERY_B: tl.constexpr, VALUE_B: tl.constexpr,
    HAS_MASK: tl.constexpr, INT8: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Attention of a block of queries of one head; grid: blocks of queries, fastest, times batch * heads.

    ``group`` heads share a head of keys. With INT8, ``queries`` and ``keys`` and their scales are those of `quantize`
    for blocks of SCALE_BLOCK rows, the scales of the queries contain ``scale``, and ``scale`` is not used.
    """
    # If causal, the last blocks see the most keys, so they start first.
    blocks = tl.cdiv(query_length, QUERY_BLOCK)
    block = blocks - 1 - tl.program_id(0) % blocks
    head_of_all = tl.program_id(0) // blocks
    head = head_of_all % heads
    batch = (head_of_all // heads).to(tl.int64)
    shared_head = head // group
    rows = block * QUERY_BLOCK + tl.arange(0, QUERY_BLOCK)
    valid = rows < query_length

    queries += batch * queries_batch + head.to(tl.int64) * queries_head
    keys += batch * keys_batch + shared_head.to(tl.int64) * keys_head
    values += batch * values_batch + shared_head.to(tl.int64) * values_head
    out += batch * out_batch + head.to(tl.int64) * out_head
    mask += batch * mask_batch + head.to(tl.int64) * mask_head
    mask_rows = tl.minimum(rows, query_length - 1) * mask_row

    query_a = _load(queries, rows, queries_row, tl.arange(0, A), query_length, True)
    query_b = query_a
    if QUERY_B > 0:
        query_b = _load(queries + A, rows, queries_row, tl.arange(0, QUERY_B), query_length, True)
    factor = tl.zeros([QUERY_BLOCK], tl.float32) + scale * LOG2_E
    if INT8:
        query_scales += head_of_all * tl.cdiv(query_length, SCALE_BLOCK)
        factor = tl.load(query_scales + rows // SCALE_BLOCK, mask=valid, other=0.0)
        key_scales += (batch * (heads // group) + shared_head) * tl.cdiv(key_length, SCALE_BLOCK)

    if has_lengths:
        key_length = tl.minimum(tl.maximum(tl.load(lengths + batch), 0), key_length)
    end = key_length
    whole = key_length
    if causal:
        end = tl.minimum(end, tl.maximum(block * QUERY_BLOCK + QUERY_BLOCK + causal_offset, 0))
        whole = tl.minimum(whole, tl.maximum(block * QUERY_BLOCK + causal_offset + 1, 0))
    whole = whole // KEY_BLOCK * KEY_BLOCK

    state_a = tl.zeros([QUERY_BLOCK, A], tl.float32)
    state_b = tl.zeros([QUERY_BLOCK, VALUE_B if VALUE_B > 0 else 16], tl.float32)
    total = tl.zeros([QUERY_BLOCK], tl.float32)
    maximum = tl.full([QUERY_BLOCK], float("-inf"), tl.float32)
    state_a, state_b, total, maximum = _accumulate(
        state_a, state_b, total, maximum, query_a, query_b, factor, keys, keys_row, key_scales, values, values_row,
        mask, mask_rows, 0, whole, 0, KEY_BLOCK, SCALE_BLOCK, A, QUERY_B, VALUE_B, False, HAS_MASK, INT8, STAGES,
    )  # fmt: skip
    limit = tl.zeros([QUERY_BLOCK], tl.int32) + key_length
    if causal:
        limit = tl.minimum(limit, rows + causal_offset + 1)
    state_a, state_b, total, maximum = _accumulate(
        state_a, state_b, total, maximum, query_a, query_b, factor, keys, keys_row, key_scales, values, values_row,
        mask, mask_rows, whole, end, limit, KEY_BLOCK, SCALE_BLOCK, A, QUERY_B, VALUE_B, True, HAS_MASK, INT8, 1,
    )  # fmt: skip

    total = tl.where(total == 0, 1.0, total)[:, None]
    pointers = out + rows[:, None] * out_row
    result = (state_a / total).to(out.dtype.element_ty)
    tl.store(pointers + tl.arange(0, A)[None, :], result, mask=valid[:, None])
    if VALUE_B > 0:
        result = (state_b / total).to(out.dtype.element_ty)
        tl.store(pointers + A + tl.arange(0, VALUE_B)[None, :], result, mask=valid[:, None])


@triton.jit
def mean(
    keys, means, lengths,
    heads, length, has_lengths,
    keys_batch, keys_head, keys_row,
    ROWS: tl.constexpr, HEAD_SIZE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Mean of a head's keys over tokens, ``means`` (batch, heads, COLUMNS); grid: (batch * heads,)."""
    head = tl.program_id(0) % heads
    batch = (tl.program_id(0) // heads).to(tl.int64)
    keys += batch * keys_batch + head.to(tl.int64) * keys_head
    if has_lengths:
        length = tl.minimum(tl.maximum(tl.load(lengths + batch), 0), length)
    columns = tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for start in tl.range(0, length, ROWS, num_stages=1):
        rows = start + tl.arange(0, ROWS)
        valid = (rows < length)[:, None] & (columns < HEAD_SIZE)[None, :]
        tile = tl.load(keys + rows[:, None] * keys_row + columns[None, :], mask=valid, other=0)
        total += tl.sum(tile.to(tl.float32), 0)
    tl.store(means + tl.program_id(0) * COLUMNS + columns, total / tl.maximum(length, 1))


@triton.jit
def quantize(
    source, quantized, scales, means, lengths,
    factor, heads, length, has_means, has_lengths,
    source_batch, source_head, source_row,
    ROWS: tl.constexpr, HEAD_SIZE: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Quantizes ``factor * (source - mean)`` to INT8, with one scale per ROWS rows (arXiv 2410.02367, section 4).

    ``quantized`` is (batch, heads, length, WIDTH), and zero from HEAD_SIZE and from the row's length on; ``scales`` is
    (batch, heads, blocks); ``means`` is that of `mean`. Grid: blocks of rows, fastest, times batch * heads.
    """
    blocks = tl.cdiv(length, ROWS)
    head_of_all = tl.program_id(0) // blocks
    head = head_of_all % heads
    batch = (head_of_all // heads).to(tl.int64)
    rows = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    stored = (rows < length)[:, None] & (columns < WIDTH)[None, :]
    quantized += head_of_all.to(tl.int64) * length * WIDTH
    if has_lengths:
        length = tl.minimum(tl.load(lengths + batch), length)
    source += batch * source_batch + head.to(tl.int64) * source_head
    valid = (rows < length)[:, None] & (columns < HEAD_SIZE)[None, :]
    tile = tl.load(source + rows[:, None] * source_row + columns[None, :], mask=valid, other=0).to(tl.float32)
    if has_means:
        tile -= tl.load(means + head_of_all * COLUMNS + columns)[None, :]
    tile = tl.where(valid, tile * factor, 0.0)
    largest = tl.max(tl.max(tl.abs(tile), 1), 0)
    scale = tl.where(largest == 0, 1.0, largest / 127)
    levels = tl.floor(tile / scale + 0.5).to(tl.int8)
    tl.store(quantized + rows[:, None] * WIDTH + columns[None, :], levels, mask=stored)
    tl.store(scales + tl.program_id(0), scale)


@triton.jit
def decode(
    queries, keys, values, states, sums, lengths,
    scale, key_heads, group, splits, key_length, has_lengths, keys_per_split,
    queries_batch, queries_head,
    keys_batch, keys_head, keys_row,
    values_batch, values_head, values_row,
    ROWS: tl.constexpr, KEY_BLOCK: tl.constexpr, A: tl.constexpr, B: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Attention of one query per head with a part of the keys.

    ``states`` is (batch, heads, splits, head size), the sum of the weighted values; ``sums`` is (batch, heads, splits,
    2), the maximum logit and the sum of the weights. Both are float32, for `combine`. The heads that share a head of
    keys are the rows of one tile; a greater group has several. See also Dao et al., "Flash-Decoding for long-context
    inference", 2023. Grid: (splits, fastest, times batch * key heads; tiles of a group).
    """
    split = tl.program_id(0) % splits
    shared_head = tl.program_id(0) // splits % key_heads
    batch = (tl.program_id(0) // splits // key_heads).to(tl.int64)
    within_group = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    head = shared_head * group + within_group
    valid = within_group < group

    queries += batch * queries_batch
    keys += batch * keys_batch + shared_head.to(tl.int64) * keys_head
    values += batch * values_batch + shared_head.to(tl.int64) * values_head
    query_a = _load(queries, head, queries_head, tl.arange(0, A), shared_head * group + group, True)
    query_b = query_a
    if B > 0:
        query_b = _load(queries + A, head, queries_head, tl.arange(0, B), shared_head * group + group, True)

    if has_lengths:
        key_length = tl.minimum(tl.maximum(tl.load(lengths + batch), 0), key_length)
    begin = split * keys_per_split
    end = tl.minimum(begin + keys_per_split, key_length)
    whole = begin + tl.maximum(end - begin, 0) // KEY_BLOCK * KEY_BLOCK
    limit = tl.zeros([ROWS], tl.int32) + end

    factor = tl.zeros([ROWS], tl.float32) + scale * LOG2_E
    state_a = tl.zeros([ROWS, A], tl.float32)
    state_b = tl.zeros([ROWS, B if B > 0 else 16], tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    maximum = tl.full([ROWS], float("-inf"), tl.float32)
    state_a, state_b, total, maximum = _accumulate(
        state_a, state_b, total, maximum, query_a, query_b, factor, keys, keys_row, sums, values, values_row,
        sums, head, begin, whole, limit, KEY_BLOCK, KEY_BLOCK, A, B, B, False, False, False, STAGES,
    )  # fmt: skip
    state_a, state_b, total, maximum = _accumulate(
        state_a, state_b, total, maximum, query_a, query_b, factor, keys, keys_row, sums, values, values_row,
        sums, head, whole, end, limit, KEY_BLOCK, KEY_BLOCK, A, B, B, True, False, False, 1,
    )  # fmt: skip

    cell = (batch * key_heads * group + head) * splits + split
    tl.store(sums + cell * 2, maximum, mask=valid)
    tl.store(sums + cell * 2 + 1, total, mask=valid)
    pointers = states + cell[:, None] * (A + B)
    tl.store(pointers + tl.arange(0, A)[None, :], state_a, mask=valid[:, None])
    if B > 0:
        tl.store(pointers + A + tl.arange(0, B)[None, :], state_b, mask=valid[:, None])


@triton.jit
def combine(
    states, sums, out,
    heads, splits, out_batch, out_head,
    SPLITS: tl.constexpr, HEAD_SIZE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Adds the splits of `decode`; grid: (batch * heads,)."""
    head = tl.program_id(0) % heads
    batch = (tl.program_id(0) // heads).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    state = tl.zeros([COLUMNS], tl.float32)
    total = 0.0
    maximum = float("-inf")
    for start in tl.range(0, splits, SPLITS, num_stages=1):
        index = start + tl.arange(0, SPLITS)
        cells = tl.program_id(0).to(tl.int64) * splits + index
        valid = index < splits
        maxima = tl.load(sums + cells * 2, mask=valid, other=float("-inf"))
        totals = tl.load(sums + cells * 2 + 1, mask=valid, other=0.0)
        new_maximum = tl.maximum(maximum, tl.max(maxima, 0))
        base = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        weights = tl.math.exp2(maxima - base)
        decay = tl.math.exp2(maximum - base)
        total = total * decay + tl.sum(weights * totals, 0)
        tile_valid = valid[:, None] & (columns < HEAD_SIZE)[None, :]
        tile = tl.load(states + cells[:, None] * HEAD_SIZE + columns[None, :], mask=tile_valid, other=0.0)
        state = state * decay + tl.sum(tile * weights[:, None], 0)
        maximum = new_maximum
    result = (state / tl.where(total == 0, 1.0, total)).to(out.dtype.element_ty)
    tl.store(out + batch * out_batch + head.to(tl.int64) * out_head + columns, result, mask=columns < HEAD_SIZE)
