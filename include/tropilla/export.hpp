/// Everything in the shared library is hidden but for what the public headers mark.
#pragma once

#define TROPILLA_API __attribute__((visibility("default")))
/// Hides a nested class that a marked class declares but does not publish.
#define TROPILLA_HIDDEN __attribute__((visibility("hidden")))
