/// Functions over sixteen floats that every instruction set computes with the same bits.
#pragma once

namespace tropilla::host {

template <class V>
struct simd16_math {
  using vec = typename V::vec;

  /// `e^x`, within 2 units in the last place; 0 below -87.3 (minus infinity included), `e^88` above 88.
  ///
  /// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by the polynomial of Cephes' `expf` (Moshier), e^x = 2^n e^r.
  static vec exp(vec x) noexcept {
    constexpr float lowest = -87.3F, highest = 88.0F;
    constexpr float shift = 12582912.0F; // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
    const vec clamped = V::min(V::max(x, V::set1(lowest)), V::set1(highest));
    const vec shifted = V::fma(clamped, V::set1(1.44269504088896341F), V::set1(shift));
    const vec n = V::sub(shifted, V::set1(shift));
    vec r = V::fma(n, V::set1(-0.693359375F), clamped);
    r = V::fma(n, V::set1(2.12194440e-4F), r);
    vec p = V::set1(1.9875691500e-4F);
    p = V::fma(p, r, V::set1(1.3981999507e-3F));
    p = V::fma(p, r, V::set1(8.3334519073e-3F));
    p = V::fma(p, r, V::set1(4.1665795894e-2F));
    p = V::fma(p, r, V::set1(1.6666665459e-1F));
    p = V::fma(p, r, V::set1(5.0000001201e-1F));
    p = V::fma(p, V::mul(r, r), V::add(r, V::set1(1)));
    return V::where_at_least(x, lowest, V::times_power(p, shifted));
  }
};

} // namespace tropilla::host
