import { describe, expect, it } from 'vitest';
import { monitorName, quoted } from '../monitors/statement.ts';
import { csv } from './csv.ts';
import { tokens } from './tokens.ts';

describe('tokens', () => {
  it('always adds up to the input', () => {
    for (const sql of ['', "SELECT 'it''s' -- note\nFROM \"a b\"", "'open", '"open', '/* open', 'é = 1e5 + .5 ≠ 💥', 'a.b(c)']) {
      expect(tokens(sql).map((token) => token.text).join('')).toBe(sql);
    }
  });

  it('tells keywords, functions, strings, numbers and comments apart', () => {
    expect(tokens("SELECT count(*), 'x' -- y").filter(({ kind }) => kind !== 'plain')).toEqual([
      { kind: 'keyword', text: 'SELECT' }, { kind: 'function', text: 'count' }, { kind: 'string', text: "'x'" }, { kind: 'comment', text: '-- y' },
    ]);
  });
});

describe('statements', () => {
  it('finds the name of a monitor', () => {
    expect(['create monitor Slow_Ones as', 'CREATE OR REPLACE MONITOR IF NOT EXISTS "Odd ""one""" AS', '-- note\n/* more */ CREATE MONITOR x', 'SELECT 1', ''].map(monitorName)).toEqual(['slow_ones', 'Odd "one"', 'x', null, null]);
  });

  it('quotes names that need it', () => expect(['requests', 'Odd "one"', '1st'].map(quoted)).toEqual(['requests', '"Odd ""one"""', '"1st"']));
});

describe('csv', () => {
  it('quotes what needs it and disarms formulas, not negative numbers', () => {
    expect(csv(['a', 'b'], [['x,y', 'say "hi"'], ['=1+1', '-5'], [null, 3], [{ k: 1 }, '@x']])).toBe('a,b\r\n"x,y","say ""hi"""\r\n\'=1+1,-5\r\n,3\r\n"{""k"":1}",\'@x\r\n');
  });
});
