/** A line the size of a word. Decorative: the numbers stand beside it. */
import type { ReactNode } from 'react';

export function Sparkline({ values, color, width = 76, height = 22 }: { readonly values: readonly number[]; readonly color: string; readonly width?: number; readonly height?: number }): ReactNode {
  const most = Math.max(1e-9, ...values);
  const step = width / Math.max(1, values.length - 1);
  const points = values.map((value, index) => `${(index * step).toFixed(1)},${(height - 1 - (value / most) * (height - 3)).toFixed(1)}`);
  return (
    <svg className="sparkline" width={width} height={height} aria-hidden="true">
      {values.length > 1 ? (
        <>
          <polygon points={`0,${height} ${points.join(' ')} ${width},${height}`} fill={color} opacity={0.12} />
          <polyline points={points.join(' ')} fill="none" stroke={color} strokeWidth={1.25} strokeLinejoin="round" />
        </>
      ) : null}
    </svg>
  );
}
