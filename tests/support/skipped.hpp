// For tests that cannot run where they are.
#pragma once

#include <catch2/catch.hpp>
#include <string>

namespace tropilla::testing {

/// To be called before a test returns without having looked at anything: ctest reports it as skipped, with the reason.
inline void skipped(const std::string& reason) {
  WARN("skipped: " << reason); // what ctest looks for
  SUCCEED();
}

} // namespace tropilla::testing
