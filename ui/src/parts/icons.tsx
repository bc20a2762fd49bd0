/** The page's few signs, drawn here: 16 × 16, in the text's colour. Decorative: words stand beside or in the label. */
import type { ReactNode } from 'react';

const shapes = {
  overview: <path d="M2 12.500h2.500L6 4.500c.8 4 2.2 6.5 8 7.5" />,
  monitors: <path d="M2.5 3.500h11v7h-11zM5.5 13.500h5M8 10.500v3M5 8l2-2 1.5 1.500L11 5.5" />,
  create: <path d="M8 3v10M3 8h10" />,
  traces: <path d="M2 4h7M4.5 8h7M8 12h6" strokeWidth="2.2" />,
  sql: <path d="M5.5 4 2 8l3.5 4M10.5 4 14 8l-3.5 4" />,
  system: <path d="M2.5 3.500h11v3.500h-11zM2.5 9.500h11v3.500h-11zM5 5.250h.01M5 11.250h.01M8 5.250h3M8 11.250h3" />,
  sun: <path d="M8 5.200a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.600ZM8 1.500v1.300M8 13.200v1.300M1.5 8h1.300M13.2 8h1.300M3.4 3.400l.9.9M11.7 11.700l.9.9M3.4 12.600l.9-.9M11.7 4.300l.9-.9" />,
  moon: <path d="M13 9.800A5.6 5.6 0 0 1 6.2 3a5.6 5.6 0 1 0 6.8 6.800Z" />,
  copy: <path d="M5.5 5.500h7v8h-7zM3.5 10.500v-8h7" />,
  done: <path d="m3 8.5 3.2 3.200L13 5" />,
  close: <path d="m4 4 8 8M12 4l-8 8" />,
  right: <path d="m6 3.5 4.5 4.500L6 12.5" />,
  down: <path d="M3.5 6 8 10.5 12.5 6" />,
  search: <path d="M7 3a4 4 0 1 0 0 8 4 4 0 0 0 0-8ZM10 10l3.5 3.5" />,
  drop: <path d="M3 4.500h10M6 4.500v-2h4v2M4.5 4.500l.6 9h5.800l.6-9" />,
  play: <path d="M5 3.500v9l7.5-4.500z" />,
  alert: <path d="M8 2.5 14.5 13.500h-13zM8 6.500v3.200M8 11.500v.3" />,
  more: <path d="M3 8h.01M8 8h.01M13 8h.01" strokeWidth="2" />,
} as const;

export type IconName = keyof typeof shapes;

export function Icon({ name, size = 16 }: { readonly name: IconName; readonly size?: number }): ReactNode {
  return (
    <svg className="icon" width={size} height={size} viewBox="0 0 16 16" fill="none" stroke="currentColor" strokeWidth="1.5" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
      {shapes[name]}
    </svg>
  );
}

/** The light curve of a flare: quiet, a steep rise, a long decay. */
export function Mark(): ReactNode {
  return (
    <svg className="mark" width="28" height="28" viewBox="0 0 32 32" aria-hidden="true">
      <path d="M3 24h7l4-18c1.5 10 4.5 16 15 17.5" fill="none" stroke="var(--ember)" strokeWidth="3" strokeLinecap="round" strokeLinejoin="round" />
    </svg>
  );
}
