// Entry points for ctypes: the kernels of stencil.cu by name. Arguments come as an array of pointers to their values.
#include "cuda.h"
#include "stencil.cu"
#include <utility>

template <auto function> struct Call;
template <class... A, void (*function)(A...)> struct Call<function> {
    template <size_t... k> static void unpack(void **arguments, std::index_sequence<k...>) {
        function(*static_cast<std::remove_const_t<A> *>(arguments[k])...);
    }
    static void run(void **arguments) { unpack(arguments, std::index_sequence_for<A...>()); }
};

__global__ void polynomials(const real *a, real *arccos, real *arcsin, int n) {
    for (int k = threadIdx.x; k < n; k += 32) arccos[k] = arccos_over_sine(a[k]), arcsin[k] = arcsin_over(a[k] / 4);
}

// Two mistakes, for the test that the shim sees them.
__global__ void race(const real *from, real *to) {
    SHARED(real, all, 64);
    all[threadIdx.x] = from[threadIdx.x];
    to[threadIdx.x] = all[63 - threadIdx.x];
}
__global__ void divergence(const real *from, real *to) {
    real a = from[threadIdx.x];
    if (threadIdx.x < 16) a = __shfl_sync(ALL_LANES, a, 0);
    to[threadIdx.x] = a;
}

extern "C" const char *launch(const char *name, unsigned x, unsigned y, unsigned threads, size_t bytes, unsigned order,
                              void **arguments) {
    struct {
        const char *name;
        void (*run)(void **);
    } kernels[] = {
        {"images_float32", Call<images_float32>::run}, {"images_float64", Call<images_float64>::run},
        {"variances", Call<variances>::run},           {"roots", Call<roots>::run},
        {"widen", Call<widen>::run},                   {"pairs", Call<pairs>::run},
        {"readout", Call<readout>::run},               {"polynomials", Call<polynomials>::run},
        {"race", Call<race>::run},                     {"divergence", Call<divergence>::run},
    };
    for (auto &kernel : kernels)
        if (!strcmp(kernel.name, name)) return shim::launch({x, y, 1}, threads, bytes, order, kernel.run, arguments);
    return "no such kernel";
}
