/* Class-aware greedy suppression on the CPU, with the results of reference.py.

   Freestanding: no C library, so that one binary runs with glibc and musl. Products and sums are rounded one by one
   (-ffp-contract=off), as in Python. tools/build_host_kernels compiles it. */

#include <stdint.h>

typedef struct {
    double x1, y1, x2, y2, area;
    int64_t kind;
    int64_t next; /* the box that was kept before it in the same slot, or -1 */
} Kept;

enum { SLOTS = 512 }; /* lists of kept boxes by class; classes may share a slot */

static double minimum(double a, double b) { return a < b ? a : b; }
static double maximum(double a, double b) { return a > b ? a : b; }
static int is_finite(float x) { return x - x == 0; }

static int suppresses(const Kept *kept, const Kept *box, double iou_threshold) {
    double width = minimum(kept->x2, box->x2) - maximum(kept->x1, box->x1);
    double height = minimum(kept->y2, box->y2) - maximum(kept->y1, box->y1);
    if (!(width > 0 && height > 0)) return 0;
    double intersection = width * height;
    return intersection / (box->area + kept->area - intersection) > iou_threshold && kept->kind == box->kind;
}

/* A candidate as a number: more for a greater score, which is positive, then for a lower index. */
static uint64_t key_of(float score, int64_t index) {
    union { float value; uint32_t bits; } number = {score};
    return (uint64_t)number.bits << 32 | (UINT32_MAX - (uint32_t)index);
}

/* Moves the number at `place` down, until none below it in the heap is greater. */
static void sift(uint64_t *heap, int64_t count, int64_t place) {
    uint64_t moved = heap[place];
    for (int64_t child = 2 * place + 1; child < count; child = 2 * place + 1) {
        if (child + 1 < count && heap[child + 1] > heap[child]) child++;
        if (heap[child] <= moved) break;
        heap[place] = heap[child];
        place = child;
    }
    heap[place] = moved;
}

/* boxes: corners, 4 per candidate; scores, classes: 1 per candidate, of which there are `count`, less than 2^32.
   selected: room for the indices of `most` boxes; work: for `most` boxes; heap: for `count` numbers.
   Writes the kept indices, best first; returns their number. */
__attribute__((visibility("default"))) int64_t edgekit_nms(
    const float *boxes, const float *scores, const int64_t *classes, int64_t count, float score_threshold,
    double iou_threshold, int64_t most, int64_t *selected, Kept *work, uint64_t *heap
) {
    int64_t left = 0;
    for (int64_t index = 0; index < count; index++)
        if (scores[index] > score_threshold) heap[left++] = key_of(scores[index], index);
    for (int64_t place = left / 2 - 1; place >= 0; place--) sift(heap, left, place);

    int64_t heads[SLOTS];
    for (int slot = 0; slot < SLOTS; slot++) heads[slot] = -1;
    int64_t number = 0;
    while (left > 0 && number < most) {
        int64_t index = UINT32_MAX - (uint32_t)heap[0];
        heap[0] = heap[--left];
        sift(heap, left, 0);
        const float *corner = boxes + 4 * index;
        if (!(is_finite(corner[0]) && is_finite(corner[1]) && is_finite(corner[2]) && is_finite(corner[3]))) continue;
        Kept box = {corner[0], corner[1], corner[2], corner[3], 0, classes[index], -1};
        box.area = maximum(0, box.x2 - box.x1) * maximum(0, box.y2 - box.y1);
        uint64_t slot = (uint64_t)box.kind % SLOTS;
        int64_t other = heads[slot];
        while (other >= 0 && !suppresses(&work[other], &box, iou_threshold)) other = work[other].next;
        if (other >= 0) continue;
        box.next = heads[slot];
        heads[slot] = number;
        work[number] = box;
        selected[number++] = index;
    }
    return number;
}
