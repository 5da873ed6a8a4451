-- SPDX-License-Identifier: Apache-2.0
module Main where

import System.Environment (getArgs, getEnv)
import System.Exit (ExitCode (ExitFailure), exitWith)

main :: IO ()
main = do
  putStrLn "Hello from Haskell!"
  args <- getArgs
  putStrLn ("arguments: " ++ unwords args)
  name <- getEnv "NAME"
  putStrLn ("NAME=" ++ name)
  text <- getContents
  putStrLn ("stdin: " ++ show (length text) ++ " bytes, " ++ show (length (filter (== '\n') text)) ++ " lines")
  poem <- readFile "/data/poem.txt"
  putStrLn ("poem: " ++ head (lines poem))
  if "fail" `elem` args then exitWith (ExitFailure 3) else return ()
