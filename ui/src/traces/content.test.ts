import { describe, expect, it } from 'vitest';
import { attributeText, readContent, readList, readMap } from './content.ts';

describe('readContent', () => {
  it('reads chat messages in the shapes that clients send', () => {
    const tool = readContent('[{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]');
    expect(tool).toEqual({ kind: 'messages', messages: [{ role: 'assistant', text: '', calls: [{ name: 'f', arguments: '{}' }] }] });
    expect(readContent({ messages: [{ role: 'user', content: [{ type: 'text', text: 'hi' }] }] })).toEqual({ kind: 'messages', messages: [{ role: 'user', text: 'hi', calls: [] }] });
    expect(readContent('[{"role":"user","parts":[{"type":"text","content":"hey"}]}]')).toMatchObject({ kind: 'messages', messages: [{ text: 'hey' }] });
  });

  it('falls back to JSON and to plain text', () => {
    expect(readContent('{"a":1}')).toEqual({ kind: 'json', text: '{\n  "a": 1\n}' });
    expect(readContent('{"broken json')).toEqual({ kind: 'text', text: '{"broken json' });
    expect(readContent('hello')).toEqual({ kind: 'text', text: 'hello' });
    expect([readContent(null), readContent('')]).toEqual([null, null]);
  });
});

describe('attributes', () => {
  it('shows JSON strings without quotes and leaves the rest alone', () => {
    expect(['"GET"', '200', 'plain', '"broken', '["a"]', '"a\\nb"'].map(attributeText)).toEqual(['GET', '200', 'plain', '"broken', '["a"]', 'a\nb']);
  });

  it('takes objects, lists, their JSON text, and nonsense', () => {
    expect(readMap('{"b":1,"a":2}')).toEqual([['a', 2], ['b', 1]]);
    expect(readMap({ x: 'y' })).toEqual([['x', 'y']]);
    expect(readList('[{"name":"e"},3]')).toEqual([{ name: 'e' }]);
    expect([readMap('nonsense'), readMap(null), readList({})]).toEqual([[], [], []]);
  });
});
