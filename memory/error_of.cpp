// Turns exceptions of other libraries into `tropilla::error`.
#include "memory/error_of.hpp"

#include <new>

namespace tropilla {

error error_of(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const std::bad_alloc&) {
    return {errc::over_budget,
            "the system refused memory, though the budget is not exceeded; close something else that "
            "takes memory, or raise the limit of this process"};
  } catch (const error& e) {
    return e;
  } catch (const std::exception& e) {
    return {errc::internal, e.what()};
  } catch (...) {
    return {errc::internal, "something was thrown that is no exception"};
  }
}

} // namespace tropilla
