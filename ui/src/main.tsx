import './styles/fonts.css';
import './styles/tokens.css';
import './styles/base.css';
import './styles/shell.css';
import './styles/parts.css';
import './styles/pages.css';
import './styles/editor.css';
import './styles/plan.css';
import './styles/system.css';
import { createRoot } from 'react-dom/client';
import { App } from './app.tsx';
import { Boundary } from './parts/boundary.tsx';

const root = document.getElementById('root');
if (root) createRoot(root).render(<Boundary><App /></Boundary>);
