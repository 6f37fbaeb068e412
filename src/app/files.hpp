/// Reading whole inputs and writing whole outputs, with errors that name the file.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace tropilla::app {

/// All bytes of a file. Throws `error` (io_error).
[[nodiscard]] std::string read_file(const std::filesystem::path& path);

/// All bytes of standard input. Throws `error` (io_error).
[[nodiscard]] std::string read_standard_input();

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
