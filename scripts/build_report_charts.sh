#!/usr/bin/env bash
# Builds diffusion_lab/reports/page/echarts.min.js from the npm packages named here; needs node and npm.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cp "$root/scripts/report_charts.mjs" "$work/entry.mjs"
cd "$work"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund echarts@6.1.0 esbuild@0.28.2
npx esbuild entry.mjs --bundle --minify --format=iife --global-name=echarts --target=es2020 --charset=utf8 \
  --legal-comments=none --log-level=warning --outfile=echarts.min.js \
  --banner:js='/*! Apache ECharts 6.1.0 (a selection of its parts), Apache License 2.0; zrender, BSD 3-Clause. ECHARTS_LICENSE.md */'
cp echarts.min.js "$root/diffusion_lab/reports/page/echarts.min.js"
{
  echo "# Licence of echarts.min.js"
  echo
  echo "\`echarts.min.js\` is a selection of Apache ECharts 6.1.0 and zrender, built by \`scripts/build_report_charts.sh\`."
  echo
  echo '```'
  cat node_modules/echarts/NOTICE node_modules/echarts/LICENSE
  echo '```'
  echo
  echo "zrender:"
  echo
  echo '```'
  cat node_modules/zrender/LICENSE
  echo '```'
} >"$root/diffusion_lab/reports/page/ECHARTS_LICENSE.md"
