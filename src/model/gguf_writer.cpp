// Builds GGUF headers, and writes files that appear complete or not at all.
#include "src/model/gguf_writer.hpp"

#include "memory/bytes.hpp"
#include "memory/rounding.hpp"
#include "src/files/whole_file.hpp"
#include "tropilla/error.hpp"

#include <cassert>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace tropilla {
namespace {

enum : std::uint32_t {
  type_u32 = 4,
  type_i32 = 5,
  type_f32 = 6,
  type_flag = 7,
  type_text = 8,
  type_array = 9,
  type_u64 = 10,
};

void append(std::string& out, std::span<const std::byte> bytes) {
  out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

template <class T>
void append_number(std::string& out, T value) {
  append(out, std::as_bytes(std::span(&value, 1)));
}

void append_text(std::string& out, std::string_view text) {
  append_number(out, std::uint64_t{text.size()});
  out.append(text);
}

template <class T>
void append_array(std::string& out, std::uint32_t type, std::span<const T> values) {
  append_number(out, type);
  append_number(out, std::uint64_t{values.size()});
  append(out, std::as_bytes(values));
}

std::string system_message(int reason) {
  return std::generic_category().message(reason);
}

} // namespace

gguf_builder::gguf_builder(std::uint32_t version, std::uint32_t alignment) : version_(version), alignment_(alignment) {
  constexpr std::uint32_t usual = 32;
  if (alignment != usual)
    put_u32("general.alignment", alignment);
}

void gguf_builder::begin(std::string_view key, std::uint32_t type) {
  append_text(metadata_, key);
  append_number(metadata_, type);
  ++entries_;
}

void gguf_builder::put_u32(std::string_view key, std::uint32_t value) {
  begin(key, type_u32);
  append_number(metadata_, value);
}

void gguf_builder::put_i32(std::string_view key, std::int32_t value) {
  begin(key, type_i32);
  append_number(metadata_, value);
}

void gguf_builder::put_u64(std::string_view key, std::uint64_t value) {
  begin(key, type_u64);
  append_number(metadata_, value);
}

void gguf_builder::put_f32(std::string_view key, float value) {
  begin(key, type_f32);
  append_number(metadata_, value);
}

void gguf_builder::put_flag(std::string_view key, bool value) {
  begin(key, type_flag);
  append_number(metadata_, static_cast<std::uint8_t>(value));
}

void gguf_builder::put_text(std::string_view key, std::string_view value) {
  begin(key, type_text);
  append_text(metadata_, value);
}

void gguf_builder::put_texts(std::string_view key, std::span<const std::string> values) {
  begin(key, type_array);
  append_number(metadata_, std::uint32_t{type_text});
  append_number(metadata_, std::uint64_t{values.size()});
  for (const std::string& value : values)
    append_text(metadata_, value);
}

void gguf_builder::put_i32s(std::string_view key, std::span<const std::int32_t> values) {
  begin(key, type_array);
  append_array(metadata_, type_i32, values);
}

void gguf_builder::put_f32s(std::string_view key, std::span<const float> values) {
  begin(key, type_array);
  append_array(metadata_, type_f32, values);
}

void gguf_builder::put_raw(std::string_view key, std::uint32_t type, std::span<const std::byte> value) {
  begin(key, type);
  append(metadata_, value);
}

std::uint64_t gguf_builder::add_tensor(std::string_view name, tensor_type type, std::span<const std::uint64_t> shape) {
  std::uint64_t rows = 1;
  for (std::size_t i = 1; i < shape.size(); ++i)
    rows *= shape[i];
  const std::uint64_t offset = data_bytes_;
  add_raw_tensor(name, static_cast<std::uint32_t>(type), shape, offset);
  data_bytes_ = round_up(offset + rows * row_bytes(type, shape.empty() ? 1 : shape[0]), alignment_);
  return offset;
}

void gguf_builder::add_raw_tensor(std::string_view name, std::uint32_t type, std::span<const std::uint64_t> shape,
                                  std::uint64_t offset) {
  append_text(infos_, name);
  append_number(infos_, static_cast<std::uint32_t>(shape.size()));
  append(infos_, std::as_bytes(shape));
  append_number(infos_, type);
  append_number(infos_, offset);
  ++tensors_;
}

std::vector<std::byte> gguf_builder::header() const {
  std::string begin = "GGUF";
  append_number(begin, version_);
  append_number(begin, tensors_);
  append_number(begin, entries_);
  std::vector<std::byte> out(round_up(begin.size() + metadata_.size() + infos_.size(), alignment_));
  std::byte* at = out.data();
  for (const std::string* part : {static_cast<const std::string*>(&begin), &metadata_, &infos_}) {
    std::memcpy(at, part->data(), part->size());
    at += part->size();
  }
  return out;
}

pending_file::pending_file(std::filesystem::path path, std::uint64_t bytes)
    : path_(std::move(path)), temporary_(path_), bytes_(bytes) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path_, ignored))
    throw error(errc::io_error, fmt::format("{} is a folder; name a file to write", path_.string()));
  temporary_ += fmt::format(".{}.part", ::getpid());
  create();
  // If the file system can't reserve, a full disk is found when writing.
  const auto length = static_cast<off_t>(bytes);
  const bool refused = ::fallocate(fd_, 0, 0, length) != 0 && (errno == ENOSPC || errno == EFBIG || errno == EDQUOT);
  if (refused || ::ftruncate(fd_, length) != 0) {
    const int reason = errno;
    give_up();
    fail("written", reason);
  }
}

pending_file::~pending_file() {
  give_up();
}

void pending_file::create() {
  fd_ = open_unnamed(path_.parent_path(), file_in_place::usual);
  if (fd_ >= 0)
    return;
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, file_in_place::usual);
  if (fd_ < 0)
    fail("created", errno);
  named_ = true;
}

void pending_file::give_up() noexcept {
  if (fd_ >= 0)
    ::close(std::exchange(fd_, -1));
  if (std::exchange(named_, false))
    ::unlink(temporary_.c_str());
}

void pending_file::fail(std::string_view doing, int reason) const {
  const bool full = reason == ENOSPC || reason == EDQUOT || reason == EFBIG;
  throw error(errc::io_error, full ? fmt::format("{} can't be {}: {} ({} are needed); make room or write elsewhere",
                                                 path_.string(), doing, system_message(reason), format_bytes(bytes_))
                                   : fmt::format("{} can't be {}: {}; write to another folder", path_.string(), doing,
                                                 system_message(reason)));
}

void pending_file::write(std::span<const std::byte> bytes, std::uint64_t offset) {
  assert(offset + bytes.size() <= bytes_);
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      fail("written", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

void pending_file::commit() {
  // A name that is free first: links replace nothing.
  if (!named_)
    named_ = give_name(fd_, temporary_);
  // A network file system reports a failed write only at the end.
  if (named_ && ::close(std::exchange(fd_, -1)) == 0 && ::rename(temporary_.c_str(), path_.c_str()) == 0) {
    named_ = false;
    return;
  }
  const int reason = errno;
  give_up();
  fail("written", reason);
}

} // namespace tropilla
