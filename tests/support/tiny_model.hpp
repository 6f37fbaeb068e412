// Small synthetic models for tests: written once per process and type, removed at its end.
#pragma once

#include "src/model/synth.hpp"

#include <filesystem>
#include <map>
#include <string>
#include <unistd.h>

namespace tropilla::testing {

/// A folder of this process's own, gone when the process ends.
class scratch_folder {
public:
  scratch_folder() : path_(std::filesystem::temp_directory_path() / ("tropilla-test-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~scratch_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  scratch_folder(const scratch_folder&) = delete;
  scratch_folder& operator=(const scratch_folder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

private:
  std::filesystem::path path_;
};

inline const std::filesystem::path& scratch() {
  static const scratch_folder folder;
  return folder.path();
}

/// The path of a model of such a shape with matrices of `type`.
inline std::filesystem::path model_of_shape(const std::string& shape, tensor_type type) {
  auto path = scratch() / (shape + "-" + std::string(info(type).name) + ".gguf");
  if (!std::filesystem::exists(path)) {
    synth_options options;
    options.shape = shape;
    options.type = type;
    options.seed = 7;
    write_synthetic_model(path, options, {});
  }
  return path;
}

/// A "mini" model; its output head is the embedding, or a matrix of its own.
inline std::filesystem::path tiny_model(tensor_type type = tensor_type::q4_0, bool tied = true) {
  return model_of_shape(tied ? "mini" : "mini-untied", type);
}

} // namespace tropilla::testing
