/* A step of decoding: a few tokens through all layers of a GPT, in one call.

Weights are int8, 255 steps around 0 and a scale for each output, keys and values bfloat16; all that is not multiplied
by weights is float32. Several threads take a step together, and wait for each other behind each loop that they divide.
`compiled.py` holds the same structures, and `network.py` says what a step is. */

#include "int8_products.h"

#ifdef _OPENMP
#ifdef __clang__
#error "its OpenMP has threads of its own, which would fight with torch's: compile without"
#endif
#include <omp.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the first of two numbers has to be in the lower half of what holds both"
#endif

#define EXPORT __attribute__((visibility("default")))

typedef struct {
    Matrix qkv, out, gate_up, down;
    const float *scale; /* (2, dim), of queries and keys of length 1 */
} Layer;

typedef struct {
    int64_t num_ids, num_layers, width, heads, dim, inner;
    float norm_epsilon, head_epsilon; /* what is added to the squared length of a row and of a head */
    const float *embedding;           /* (ids, width) */
    const float *norm;                /* (width,) */
    const Layer *layers;
} Network;

typedef struct {
    uint16_t *store; /* bfloat16, (layers, 2, rows, heads, slots, dim) with the strides below, in numbers */
    int64_t layer, part, row, head;
    int64_t slots, visible; /* those there are, and those that are looked at */
} Cache;

static float inverse_length(const float *x, int64_t count, float epsilon) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < count; i++) squares += x[i] * x[i];
    return 1 / sqrtf(squares + epsilon);
}

INLINE float from_bfloat16(uint16_t bits) {
    union { uint32_t bits; float value; } both = {(uint32_t)bits << 16};
    return both.value;
}

/* To the nearest, as torch rounds; what is no number stays none. */
INLINE uint16_t to_bfloat16(float value) {
    union { float value; uint32_t bits; } both = {value};
    const uint32_t nearest = (both.bits + 0x7fff + (both.bits >> 16 & 1)) >> 16;
    return (uint16_t)(value == value ? nearest : 0x7fc0);
}

/* e to the power of x, from -87 to 87, within 3e-7 of itself: its series around whole powers of 2, where the logarithm
of 2 is in two parts, the first of which has so few digits that it is multiplied exactly. */
INLINE float exponential(float x) {
    x = x < -87 ? -87 : x > 87 ? 87 : x;
    const float whole = rintf(x * 1.44269504f), f = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    const float series = 1 + f * (1 + f * (0.5f + f * (1 / 6.f + f * (1 / 24.f + f * (1 / 120.f + f / 720.f)))));
    union { uint32_t bits; float value; } scale = {(uint32_t)((int32_t)whole + 127) << 23};
    return series * scale.value;
}

/* Bring queries and keys (2, heads, dim) of one token to their length and turn them, and write key and value down. */
static void place(const Network *n, const Layer *layer, float *qkv, const float *turn, uint16_t *kv, const Cache *c) {
    const int64_t dim = n->dim, width = n->width;
    for (int64_t part = 0; part < 2; part++)
        for (int64_t head = 0; head < n->heads; head++) {
            float *x = qkv + part * width + head * dim;
            const float *scale = layer->scale + part * dim;
            const float length = inverse_length(x, dim, n->head_epsilon);
            for (int64_t i = 0; i < dim; i += 2) {
                const float real = x[i] * length * scale[i], imaginary = x[i + 1] * length * scale[i + 1];
                x[i] = real * turn[i] - imaginary * turn[i + 1];
                x[i + 1] = real * turn[i + 1] + imaginary * turn[i];
            }
        }
    for (int64_t part = 0; part < 2; part++)
        for (int64_t head = 0; head < n->heads; head++)
            for (int64_t i = 0; i < dim; i++)
                kv[part * c->part + head * c->head + i] = to_bfloat16(qkv[(part + 1) * width + head * dim + i]);
}

typedef float Lanes __attribute__((vector_size(4 * BLOCK)));
typedef uint32_t LaneBits __attribute__((vector_size(4 * BLOCK)));

INLINE Lanes lanes(const float *x) {
    Lanes found;
    memcpy(&found, x, sizeof found);
    return found;
}

/* Of 2 * BLOCK numbers of bfloat16 those at even places, and those at odd ones. */
INLINE LaneBits pairs(const uint16_t *x) {
    LaneBits found;
    memcpy(&found, x, sizeof found);
    return found;
}
INLINE Lanes first(LaneBits bits) { return (Lanes)(bits << 16); }
INLINE Lanes second(LaneBits bits) { return (Lanes)(bits & 0xffff0000u); }

INLINE float total_of(Lanes x) {
    typedef float Eight __attribute__((vector_size(2 * BLOCK)));
    typedef float Four __attribute__((vector_size(BLOCK)));
    union { Lanes all; Eight parts[2]; } halves = {x};
    union { Eight all; Four parts[2]; } quarters = {halves.parts[0] + halves.parts[1]};
    const Four sum = quarters.parts[0] + quarters.parts[1];
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* Weighted sums of `count` * 2 * BLOCK channels of the values. */
INLINE void weighted(const int count, const uint16_t *v, int64_t seen, int64_t dim, const float *weights, float *to) {
    Lanes sums[2][2];
    for (int i = 0; i < count; i++) sums[i][0] = sums[i][1] = (Lanes){0};
    for (int64_t slot = 0; slot < seen; slot++)
        for (int i = 0; i < count; i++) {
            const LaneBits value = pairs(v + slot * dim + i * 2 * BLOCK);
            sums[i][0] += weights[slot] * first(value);
            sums[i][1] += weights[slot] * second(value);
        }
    for (int i = 0; i < count * BLOCK; i++) {
        to[2 * i] = sums[i / BLOCK][0][i % BLOCK];
        to[2 * i + 1] = sums[i / BLOCK][1][i % BLOCK];
    }
}

/* Attention of one head of one token to `seen` slots; `weights` holds as many numbers, `split` twice `dim`. */
static void attend(const float *q, const uint16_t *k, const uint16_t *v, int64_t seen, int64_t dim, float *weights,
                   float *split, float *to) {
    const float scale = 1 / sqrtf((float)dim);
    const int64_t whole = dim / (2 * BLOCK) * (2 * BLOCK);
    float *odd = split + dim, most = -INFINITY, total = 0;
    for (int64_t i = 0; i < whole / 2; i++) split[i] = q[2 * i], odd[i] = q[2 * i + 1];
    for (int64_t slot = 0; slot < seen; slot++) {
        const uint16_t *key = k + slot * dim;
        Lanes sums = {0};
        for (int64_t i = 0; i < whole; i += 2 * BLOCK) {
            const LaneBits both = pairs(key + i);
            sums += lanes(split + i / 2) * first(both);
            sums += lanes(odd + i / 2) * second(both);
        }
        float sum = total_of(sums);
        for (int64_t i = whole; i < dim; i++) sum += q[i] * from_bfloat16(key[i]);
        weights[slot] = sum * scale;
        most = weights[slot] > most ? weights[slot] : most;
    }
#pragma omp simd reduction(+ : total)
    for (int64_t slot = 0; slot < seen; slot++) {
        weights[slot] = exponential(weights[slot] - most);
        total += weights[slot];
    }
    const float share = 1 / total;
    for (int64_t slot = 0; slot < seen; slot++) weights[slot] *= share;
    int64_t at = 0;
    for (; at + 4 * BLOCK <= dim; at += 4 * BLOCK) weighted(2, v + at, seen, dim, weights, to + at);
    for (; at + 2 * BLOCK <= dim; at += 2 * BLOCK) weighted(1, v + at, seen, dim, weights, to + at);
    for (; at < dim; at++) {
        to[at] = 0;
        for (int64_t slot = 0; slot < seen; slot++) to[at] += weights[slot] * from_bfloat16(v[slot * dim + at]);
    }
}

/* Parts of the memory that a step works in. */
typedef struct {
    float *x, *wide, *attended, *scale, *weights;
    int16_t *rounded;
} Scratch;

static int64_t widest(const Network *n) { return 3 * n->width > 2 * n->inner ? 3 * n->width : 2 * n->inner; }

/* Inputs of a product at most, padded. */
static int64_t longest(const Network *n) { return padded(n->width > n->inner ? n->width : n->inner, 2 * MOST); }

/* Numbers that a thread attends with. */
static int64_t per_thread(const Network *n, int64_t visible) { return padded(visible + 2 * n->dim, BLOCK); }

static Scratch divided(const Network *n, int64_t tokens, int64_t visible, int64_t threads, float *memory) {
    Scratch s;
    s.x = memory;
    s.wide = s.x + tokens * n->width;
    s.attended = s.wide + tokens * widest(n);
    s.scale = s.attended + tokens * n->width;
    s.weights = s.scale + tokens;
    s.rounded = (int16_t *)(s.weights + threads * per_thread(n, visible));
    return s;
}

/* Return the bytes of memory that a step of so many tokens needs. */
EXPORT int64_t step_bytes(const Network *n, int64_t tokens, int64_t visible, int64_t threads) {
    const int64_t floats = tokens * (2 * n->width + widest(n) + 1) + threads * per_thread(n, visible);
    return floats * (int64_t)sizeof(float) + tokens * longest(n) * (int64_t)sizeof(int16_t);
}

static int64_t thread_number(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* Divide rows (tokens, width) of `x` by their length, and round them for a matrix behind a norm. */
static void normed(const Network *n, const Matrix *m, const Scratch *s, int64_t tokens) {
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        const float *x = s->x + t * n->width;
        s->scale[t] = rounded(m, x, n->width, s->rounded + t * m->inputs) * inverse_length(x, n->width, n->norm_epsilon);
    }
}

static void layer_of(const Network *n, const Layer *layer, const Scratch *s, int64_t tokens, int64_t per_row,
                     const int64_t *slots, const float *turn, const Cache *c) {
    const int64_t width = n->width, dim = n->dim, inner = n->inner;
    normed(n, &layer->qkv, s, tokens);
    multiply(&layer->qkv, s->rounded, s->scale, tokens, s->wide, 0);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; t++)
        place(n, layer, s->wide + 3 * t * width, turn + t * dim, c->store + t / per_row * c->row + slots[t] * dim, c);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < tokens * n->heads; i++) {
        const int64_t t = i / n->heads, head = i % n->heads, seen = slots[t] + 1 < c->visible ? slots[t] + 1 : c->visible;
        const uint16_t *k = c->store + t / per_row * c->row + head * c->head;
        float *weights = s->weights + thread_number() * per_thread(n, c->visible);
        attend(s->wide + 3 * t * width + head * dim, k, k + c->part, seen, dim, weights, weights + seen,
               s->attended + i * dim);
    }
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; t++)
        s->scale[t] = rounded(&layer->out, s->attended + t * width, width, s->rounded + t * layer->out.inputs);
    multiply(&layer->out, s->rounded, s->scale, tokens, s->x, 1);
    normed(n, &layer->gate_up, s, tokens);
    multiply(&layer->gate_up, s->rounded, s->scale, tokens, s->wide, 0);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        float *gate = s->wide + 2 * t * inner, *up = gate + inner;
#pragma omp simd
        for (int64_t i = 0; i < inner; i++) gate[i] = gate[i] / (1 + exponential(-gate[i])) * up[i];
        s->scale[t] = rounded(&layer->down, gate, inner, s->rounded + t * layer->down.inputs);
    }
    multiply(&layer->down, s->rounded, s->scale, tokens, s->x, 1);
}

/* Take tokens (rows, per_row) with their slots and rotations (tokens, dim / 2) complex through the network; write their
last hidden states (tokens, width) to `hidden`. Return 0, or -1 without having done anything for an id or slot that there
is not. */
EXPORT int64_t step(const Network *n, const Cache *cache, int64_t tokens, int64_t per_row, const int64_t *ids,
                    const int64_t *slots, const float *turn, float *hidden, void *memory, int64_t threads) {
    const Scratch s = divided(n, tokens, cache->visible, threads, memory);
    const int64_t width = n->width;
    for (int64_t t = 0; t < tokens; t++)
        if (ids[t] < 0 || ids[t] >= n->num_ids || slots[t] < 0 || slots[t] >= cache->slots) return -1;
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t++)
            memcpy(s.x + t * width, n->embedding + ids[t] * width, (size_t)width * sizeof(float));
        Cache at = *cache;
        for (int64_t number = 0; number < n->num_layers; number++, at.store += at.layer)
            layer_of(n, n->layers + number, &s, tokens, per_row, slots, turn, &at);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t++) {
            const float *x = s.x + t * width, length = inverse_length(x, width, n->norm_epsilon);
            for (int64_t i = 0; i < width; i++) hidden[t * width + i] = x[i] * length * n->norm[i];
        }
    }
    return 0;
}

/* Multiply rows (rows, count) by a matrix: (rows, outputs). `memory` holds rows * (inputs * 2 + 4) bytes. */
EXPORT void product(const Matrix *m, int64_t rows, int64_t count, const float *x, float *y, void *memory,
                    int64_t threads) {
    float *scale = memory;
    int16_t *at = (int16_t *)(scale + rows);
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++)
            scale[row] = rounded(m, x + row * count, count, at + row * m->inputs);
        multiply(m, at, scale, rows, y, 0);
    }
}
