/// Everything in the shared library is hidden but for what the public headers mark.
#pragma once

#define TROPILLA_API __attribute__((visibility("default")))
/// Of what a marked class declares and keeps to itself.
#define TROPILLA_HIDDEN __attribute__((visibility("hidden")))
