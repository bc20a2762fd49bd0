import { describe, expect, it } from 'vitest';
import { ago, axisFormat, bytes, cellText, columnKind, compact, decimal, duration, integer, line, percent, toMillis, toNumber } from './format.ts';

const thin = '\u202f';

describe('numbers', () => {
  it('keeps every digit of an int64', () => {
    expect(integer('9223372036854775807')).toBe(['9', '223', '372', '036', '854', '775', '807'].join(thin));
    expect(integer('-1000')).toBe(`−1${thin}000`);
    expect(integer(null)).toBe('—');
    expect(integer('12abc')).toBe('12abc');
  });

  it('is short on tiles and never shows 1000k', () => {
    expect([0, 1, 12.34, 999, 1000, 12_400, 999_960, 1_250_000, 3e9, -1500].map(compact)).toEqual(['0', '1', '12.3', '999', '1k', '12.4k', '1M', '1.3M', '3B', '−1.5k']);
    expect(compact(NaN)).toBe('—');
  });

  it('shows decimals with what matters', () => {
    expect([0, 0.1 + 0.2, 0.012_346, 1234.5678, -2.5, 1e21, 1e-9].map(decimal)).toEqual(['0', '0.3', '0.01235', `1${thin}234.6`, '−2.5', '1.000e21', '1.000e−9']);
    expect([NaN, Infinity, -Infinity].map(decimal)).toEqual(['NaN', '∞', '−∞']);
  });

  it('tells a small share from none', () => {
    expect([0, 0.00001, 0.0004, 0.0123, 0.5, 1, NaN].map(percent)).toEqual(['0 %', '< 0.01 %', '0.04 %', '1.2 %', '50 %', '100 %', '—']);
  });
});

describe('durations', () => {
  it('chooses the unit and never shows a full one of the smaller', () => {
    expect([0, 0.00074, 0.0123, 3.4, 999.6, 1250, 59_999, 125_000, 3_725_000, 400_000_000].map(duration)).toEqual(['0 ms', '740 ns', '12.3 µs', '3.4 ms', '1 s', '1.25 s', '1 m 00 s', '2 m 05 s', '1 h 02 m', '4.6 d']);
    expect([duration(-5), duration(NaN)]).toEqual(['−5 ms', '—']);
  });

  it('says how long ago', () => {
    expect([200, 4000, 150_000, 7_200_000, 3e8].map(ago)).toEqual(['just now', '4 s ago', '3 min ago', '2 h ago', '3 days ago']);
  });

  it('counts bytes', () => expect([12, 1500, 2_500_000, 3e9].map(bytes)).toEqual(['12 B', '1.5 kB', '2.5 MB', '3 GB']));
});

describe('cells', () => {
  it('knows kinds by the names of types', () => {
    expect(['Int64', 'UInt8', 'bigint', 'Float64', 'Decimal(38, 12)', 'Timestamp(µs, UTC)', 'Date32', 'Utf8', 'Boolean', 'Interval(MonthDayNano)', 'List(Int64)', ''].map(columnKind)).toEqual(['integer', 'integer', 'integer', 'number', 'number', 'time', 'time', 'text', 'boolean', 'text', 'text', 'text']);
  });

  it('reads numbers and times as they come', () => {
    expect([toNumber('12'), toNumber(1.5), toNumber(true), toNumber('∞'), toNumber('-∞')]).toEqual([12, 1.5, 1, Infinity, -Infinity]);
    expect([toNumber(null), toNumber(''), toNumber('NaN'), toNumber('x')].every(Number.isNaN)).toBe(true);
    expect(toMillis('2026-11-24T05:00:00.123456Z')).toBe(Date.UTC(2026, 10, 24, 5, 0, 0, 123));
    expect(toMillis('2026-11-24T05:00:00+02:00')).toBe(Date.UTC(2026, 10, 24, 3));
    expect(toMillis('never')).toBeNaN();
  });

  it('shows decimals as they were sent', () => {
    expect(cellText('12345678901234567890.123456789012', 'number')).toBe('12345678901234567890.123456789012');
    expect(cellText({ a: [1] }, 'text')).toBe('{"a":[1]}');
    expect(cellText(null, 'integer')).toBe('—');
  });

  it('makes control and direction characters visible', () => {
    expect(line('a\nb\u0000c\u202ed\u2066e')).toBe('a␣b␣c�d�e');
    expect(line('plain — text 中 🔥')).toBe('plain — text 中 🔥');
  });
});

describe('axes', () => {
  it('have the unit that the column’s name ends in', () => {
    expect([axisFormat('p95_ms')(1250), axisFormat('slowest_ns')(2_500_000), axisFormat('mean_s')(0.25), axisFormat('ms')(3)]).toEqual(['1.25 s', '2.5 ms', '250 ms', '3 ms']);
    expect([axisFormat('error_rate')(0.045), axisFormat('requests')(1200), axisFormat('tokens')(1200), axisFormat('items')(2)]).toEqual(['4.5 %', '1.2k', '1.2k', '2']);
  });
});
