// Adds up sizes and parameters in a header.
#include "app/model_summary.hpp"

#include <map>
#include <variant>

namespace tropilla::app {

model_summary summarise(const gguf_file& file) {
  model_summary s;
  const auto text = [&](std::string_view key) {
    const auto found = file.metadata.find(key);
    const auto* value = found == file.metadata.end() ? nullptr : std::get_if<std::string>(&found->second);
    return value ? *value : std::string();
  };
  s.architecture = text("general.architecture");
  s.name = text("general.name");
  std::map<std::string_view, std::uint64_t> by_type;
  for (const gguf_tensor& tensor : file.tensors) {
    const std::uint64_t count = tensor.columns() * tensor.rows();
    s.parameters += count;
    s.tensor_bytes += tensor.bytes;
    by_type[info(tensor.type).name] += count;
  }
  for (const auto& [type, count] : by_type)
    if (s.type.empty() || count > by_type[s.type])
      s.type = type;
  for (const std::uint64_t bytes : file.file_bytes)
    s.file_bytes += bytes;
  return s;
}

} // namespace tropilla::app
