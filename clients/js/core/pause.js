// @ts-check

/**
 * Returns a random time before an attempt is repeated, which grows with each attempt (full jitter).
 * @param {number} attempt @param {number} maxMs
 */
export const backoffMs = (attempt, maxMs) => Math.random() * Math.min(maxMs, 1000 * 2 ** attempt);

/**
 * Resolves after a time, or when the signal is aborted.
 * @param {number} ms @param {AbortSignal} [signal]
 */
export const pause = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve(undefined);
    });
  });
