/// Reading whole inputs and writing whole outputs, with errors that name the file.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace tropilla::app {

inline constexpr std::size_t max_settings_bytes = std::size_t{1} << 20; ///< bytes of a file with settings
inline constexpr std::size_t max_text_bytes = std::size_t{256} << 20;   ///< of a text that is only looked at

/// Bytes that are read of a prompt: more than a context of so many tokens holds, but for words that are one token each
/// and longer than any that are known.
[[nodiscard]] std::size_t max_prompt_bytes(std::size_t context) noexcept;

/// All bytes of a file, of which there may be `max_bytes`: a device has no end. Throws `error` (io_error).
[[nodiscard]] std::string read_file(const std::filesystem::path& path, std::size_t max_bytes);

/// All bytes of standard input, likewise. Throws `error` (io_error).
[[nodiscard]] std::string read_standard_input(std::size_t max_bytes);

/// Replaces a file, or leaves it as it was: written beside it and renamed. Throws `error` (io_error).
void write_file(const std::filesystem::path& path, std::string_view bytes);

/// `~/x` with the home directory in place of `~`.
[[nodiscard]] std::filesystem::path expand_home(const std::string& path);

/// The directory of a user's `variable` (XDG_STATE_HOME), or `$HOME/fallback`; empty when there is no home either.
[[nodiscard]] std::filesystem::path user_directory(const char* variable, std::string_view fallback);

/// Where packed weights are kept: `${XDG_CACHE_HOME:-~/.cache}/tropilla/packed`; empty when there is no home either.
[[nodiscard]] std::filesystem::path packed_cache_directory();

/// An error (io_error) with the system's reason: "can't `verb` `path`: No such file or directory".
[[noreturn]] void throw_system_error(std::string_view verb, std::string_view path, int number);

} // namespace tropilla::app
