// Suppression of rotated boxes: how much two overlap, with the formulas of rotated.py, and Fast NMS.
#pragma once

#include "suppression.cuh"

enum Overlap { NO_OVERLAP, CORNERS, ROTATED, PROBIOU };

struct Rotated {
  double x, y, width, height, cos, sin;
  double reach;  // two boxes whose centers are farther apart than the sum of theirs do not suppress each other
  int kind, overlap;

  __device__ bool suppresses(const Rotated& other, double threshold) const {
    if (kind != other.kind || !(fmin(fmin(width, height), fmin(other.width, other.height)) > 0.0)) return false;
    const double dx = x - other.x, dy = y - other.y, sum = reach + other.reach;
    if (dx * dx + dy * dy > sum * sum) return false;
    return (overlap == ROTATED ? iou(other) : probiou(other)) > threshold;
  }

  // Clips this box by the other one's sides, in whose frame they are parallel to the axes (Sutherland and Hodgman).
  __device__ double iou(const Rotated& other) const {
    const double dx = x - other.x, dy = y - other.y;
    const double center[2] = {dx * other.cos + dy * other.sin, dy * other.cos - dx * other.sin};
    const double turn = cos * other.cos + sin * other.sin, lift = sin * other.cos - cos * other.sin;
    const double half[2] = {other.width / 2.0, other.height / 2.0};
    double points[2][8][2];
    int count = 4;
    for (int i = 0; i < 4; ++i) {
      const double u = (i == 0 || i == 3 ? width : -width) / 2.0, v = (i < 2 ? height : -height) / 2.0;
      points[0][i][0] = center[0] + u * turn - v * lift;
      points[0][i][1] = center[1] + u * lift + v * turn;
    }
    for (int side = 0; side < 4; ++side) {
      const double(*from)[2] = points[side & 1];
      double(*to)[2] = points[(side & 1) ^ 1];
      const int axis = side / 2;
      const double sign = side & 1 ? -1.0 : 1.0;
      int clipped = 0;
      for (int i = 0; i < count; ++i) {
        const double* p = from[i];
        const double* q = from[i + 1 < count ? i + 1 : 0];
        const double inside = half[axis] - sign * p[axis], after = half[axis] - sign * q[axis];
        if (inside >= 0.0 && clipped < 8) {
          to[clipped][0] = p[0];
          to[clipped++][1] = p[1];
        }
        if ((inside >= 0.0) != (after >= 0.0) && clipped < 8) {
          const double share = inside / (inside - after);
          to[clipped][0] = p[0] + share * (q[0] - p[0]);
          to[clipped++][1] = p[1] + share * (q[1] - p[1]);
        }
      }
      count = clipped;
    }
    double twice = 0.0;
    for (int i = 0; i < count; ++i) {
      const double *p = points[0][i], *q = points[0][i + 1 < count ? i + 1 : 0];
      twice += p[0] * q[1] - q[0] * p[1];
    }
    const double own_area = width * height, other_area = other.width * other.height;
    const double intersection = fmin(fmin(fabs(twice) / 2.0, own_area), other_area);
    return intersection > 0.0 ? intersection / (own_area + other_area - intersection) : 0.0;
  }

  // Both boxes are Gaussians; one minus their Hellinger distance (arXiv:2106.06072).
  __device__ double probiou(const Rotated& other) const {
    const double along = width * width / 12.0, across = height * height / 12.0;
    const double other_along = other.width * other.width / 12.0, other_across = other.height * other.height / 12.0;
    const double a = along * (cos * cos) + across * (sin * sin) + (other_along * (other.cos * other.cos) +
                     other_across * (other.sin * other.sin));
    const double b = along * (sin * sin) + across * (cos * cos) + (other_along * (other.sin * other.sin) +
                     other_across * (other.cos * other.cos));
    const double c = (along - across) * cos * sin + (other_along - other_across) * other.cos * other.sin;
    const double determinant = a * b - c * c;
    if (!(determinant > 0.0)) return 0.0;
    const double dx = x - other.x, dy = y - other.y;
    double distance = (a * (dy * dy) + b * (dx * dx) - 2.0 * c * dx * dy) / (4.0 * determinant);
    distance += log(determinant / (4.0 * (width * height * other.width * other.height / 144.0))) / 2.0;
    return 1.0 - sqrt(1.0 - exp(-fmax(distance, 0.0)));
  }
};

// Two boxes that overlap are in circles around them. The Bhattacharyya distance of two Gaussians is at least
// d^2 / (4 (l1 + l2)), with the distance d of the centers and the largest variances l1 and l2: for an overlap above the
// threshold it must be less than -log(1 - (1 - threshold)^2).
__device__ inline double reach_of(double width, double height, int overlap, double threshold) {
  constexpr double ROUNDED_UP = 1.0 + 1e-9;
  if (overlap == ROTATED) return hypot(width, height) / 2.0 * ROUNDED_UP;
  const double most = -log(1.0 - (1.0 - threshold) * (1.0 - threshold));  // infinite if the threshold is 0
  return fmax(width, height) * sqrt(most / 3.0) * ROUNDED_UP;
}

// `box` has the center and the sides.
__device__ inline Rotated rotated(const Box& box, double angle, int kind, int overlap, double threshold) {
  const double reach = reach_of(box.x2, box.y2, overlap, threshold);
  return {box.x1, box.y1, box.x2, box.y2, cos(angle), sin(angle), reach, kind, overlap};
}

// As `sweep`, but candidates that are dropped suppress others too (Fast NMS, arXiv:1904.02689), so that no candidate
// waits for another one. Block: SWEEP_THREADS.
__device__ inline int fast_sweep(Sweep& shared, const Word* rows, int length, int limit) {
  constexpr int PARTS = SWEEP_THREADS / WORDS;
  const int thread = threadIdx.x, word = thread % WORDS, part = thread / WORDS;
  const int words = (length + BITS - 1) / BITS;
  if (thread < WORDS) shared.removed[thread] = 0;
  __syncthreads();
  Word gone = 0;
  const int last = word < words ? min(length, (word + 1) * BITS) : 0;  // worse ones suppress nothing of this word
  for (int row = part; row < last; row += PARTS) gone |= rows[static_cast<size_t>(row) * WORDS + word];
  if (gone != 0) atomicOr(&shared.removed[word], gone);
  __syncthreads();
  if (thread == 0) {
    shared.total = 0;
    for (int block = 0; block < words; ++block) {
      const int size = min(BITS, length - block * BITS);
      Word alive = ~shared.removed[block];
      if (size < BITS) alive &= (static_cast<Word>(1) << size) - 1;
      shared.diagonal[block] = alive;  // the diagonal of the matrix is not needed
      shared.diagonal[WORDS + block] = static_cast<Word>(shared.total);
      shared.total += __popcll(alive);
    }
    shared.total = min(shared.total, limit);
  }
  __syncthreads();
  for (int i = thread; i < length; i += SWEEP_THREADS) {
    const Word alive = shared.diagonal[i / BITS], bit = static_cast<Word>(1) << (i % BITS);
    const int place = static_cast<int>(shared.diagonal[WORDS + i / BITS]) + __popcll(alive & (bit - 1));
    if ((alive & bit) != 0 && place < limit) shared.kept[place] = static_cast<unsigned short>(i);
  }
  __syncthreads();
  return shared.total;
}
