// Prints the compute capability of every GPU that the NVIDIA driver lends to this process: "90". Run by cuda.cmake;
// asks the driver itself, which is there under WSL and in containers, too, where nvidia-smi or /proc may not be.
#include <cstdio>
#include <dlfcn.h>

namespace {

constexpr int capability_major = 75; ///< CUdevice_attribute
constexpr int capability_minor = 76;

template <class Function>
Function find(void* driver, const char* name) {
  return reinterpret_cast<Function>(dlsym(driver, name));
}

} // namespace

int main() {
  void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (driver == nullptr)
    return 1;
  const auto init = find<int (*)(unsigned)>(driver, "cuInit");
  const auto count_devices = find<int (*)(int*)>(driver, "cuDeviceGetCount");
  const auto attribute = find<int (*)(int*, int, int)>(driver, "cuDeviceGetAttribute");
  int count = 0;
  if (init == nullptr || count_devices == nullptr || attribute == nullptr || init(0) != 0 || count_devices(&count) != 0)
    return 1;
  for (int device = 0; device < count; ++device) {
    int major = 0;
    int minor = 0;
    if (attribute(&major, capability_major, device) == 0 && attribute(&minor, capability_minor, device) == 0)
      std::printf("%d%d\n", major, minor);
  }
}
