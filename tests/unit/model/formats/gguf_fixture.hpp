/// What the format tests share: a small model to spoil, a folder that goes away, a watch on allocations.
#pragma once

#include "kernels/tensor_type.hpp"
#include "src/model/gguf_writer.hpp"
#include "tropilla/error.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla::testing {

/// A Llama model of two layers, width 32, four heads of 8 (two of keys and values), 6 tokens, as a file's bytes.
struct small_model {
  struct tensor {
    std::string name;
    std::uint32_t type;
    std::vector<std::uint64_t> shape;
    std::optional<std::uint64_t> offset = {}; ///< in place of the one behind the tensor before
  };
  using put = std::function<void(gguf_builder&, const std::string& key)>;

  small_model();

  small_model& with(const std::string& key, std::uint32_t value);
  small_model& with(const std::string& key, float value);
  small_model& with(const std::string& key, const char* value);
  small_model& with(const std::string& key, put value);
  small_model& without(const std::string& key);
  small_model& with_tensor(const std::string& name, tensor_type type, std::vector<std::uint64_t> shape);
  small_model& without_tensor(const std::string& name);
  [[nodiscard]] tensor& at(const std::string& name);

  [[nodiscard]] gguf_builder build() const;
  [[nodiscard]] std::vector<std::byte> header() const { return build().header(); }
  /// The header, then `fill` for data.
  [[nodiscard]] std::vector<std::byte> file(std::byte fill = std::byte{0}) const;

  std::uint32_t version = 3;
  std::uint32_t alignment = 32;
  std::map<std::string, put> metadata;
  std::vector<tensor> tensors;
};

/// A folder of its own for a test.
class temporary_folder {
public:
  temporary_folder();
  ~temporary_folder();
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;

  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const { return path_ / name; }
  /// Writes a file in the folder and returns its path.
  std::filesystem::path write(std::string_view name, std::span<const std::byte> bytes) const;
  [[nodiscard]] std::size_t entries() const;

private:
  std::filesystem::path path_;
};

/// The largest allocation of this thread through `operator new` since construction, in bytes.
class allocation_watch {
public:
  allocation_watch();
  [[nodiscard]] std::size_t largest() const;
};

/// How a call failed; `code` is empty where it did not. Other exceptions than `error` pass through.
struct outcome {
  std::optional<errc> code;
  std::string message;
};
[[nodiscard]] outcome outcome_of(const std::function<void()>& call);

} // namespace tropilla::testing
