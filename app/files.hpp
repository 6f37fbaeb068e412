/// Reads whole inputs and writes whole outputs, with errors that name the file.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace tropilla::app {

inline constexpr std::size_t max_settings_bytes = std::size_t{1} << 20; ///< bytes of a file with settings
inline constexpr std::size_t max_text_bytes = std::size_t{256} << 20;   ///< of a text that is only looked at

/// The largest number of bytes that are read of a prompt: more than a context of so many tokens holds, unless its
/// tokens are longer than any that are known.
[[nodiscard]] std::size_t max_prompt_bytes(std::size_t context) noexcept;

/// Reads all bytes of a file, at most `max_bytes`, since a device has no end. Throws `error` (io_error).
[[nodiscard]] std::string read_file(const std::filesystem::path& path, std::size_t max_bytes);

/// Reads all bytes of standard input, at most `max_bytes`. Throws `error` (io_error).
[[nodiscard]] std::string read_standard_input(std::size_t max_bytes);

/// Replaces a file, or leaves it as it was: written beside it and renamed. Throws `error` (io_error).
void write_file(const std::filesystem::path& path, std::string_view bytes);

/// `~/x` with the home directory in place of `~`.
[[nodiscard]] std::filesystem::path expand_home(const std::string& path);

/// The directory of a user's `variable` (XDG_STATE_HOME), or `$HOME/fallback`; empty when there is no home either.
[[nodiscard]] std::filesystem::path user_directory(const char* variable, std::string_view fallback);

/// The folder of packed weights: `${XDG_CACHE_HOME:-~/.cache}/tropilla/packed`; empty when there is no home either.
[[nodiscard]] std::filesystem::path packed_cache_directory();

/// The folder of keys and values: `${XDG_CACHE_HOME:-~/.cache}/tropilla/kv`; empty when there is no home either.
[[nodiscard]] std::filesystem::path kv_directory();

/// Throws an `error` (io_error) with the system's reason: "can't `verb` `path`: No such file or directory".
[[noreturn]] void throw_system_error(std::string_view verb, std::string_view path, int number);

} // namespace tropilla::app
