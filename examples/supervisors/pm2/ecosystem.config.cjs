module.exports = {
  apps: [
    {
      name: 'web',
      script: 'server.mjs',
      exec_mode: 'cluster',
      instances: 2,
      wait_ready: true, // until the worker says 'ready'
      kill_timeout: 35000, // ms: above the drain's timeout
    },
  ],
};
