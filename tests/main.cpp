// The entry point of every Catch2 test executable.
#define CATCH_CONFIG_RUNNER // NOLINT(readability-identifier-naming): for the header
#include "tests/support/before_tests.hpp"

#include <catch2/catch.hpp>

int main(int count, char** arguments) {
  if (tropilla::testing::before_tests != nullptr)
    if (const int status = tropilla::testing::before_tests(count, arguments))
      return status;
  Catch::Session session;
  // A name that no test has, and a test that looks at nothing, are failures.
  session.configData().warnings =
      static_cast<Catch::WarnAbout::What>(Catch::WarnAbout::NoAssertions | Catch::WarnAbout::NoTests);
  return session.run(count, arguments);
}
